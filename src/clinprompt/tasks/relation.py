"""Relations between given entities: one question per candidate pair, ``<< head >>`` and ``[[ tail ]]`` marked."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from clinprompt.records import Entity, Record, Relation, Span
from clinprompt.tasks import surface
from clinprompt.tasks.choices import choose
from clinprompt.tasks.codec import Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.grounding import trimmed
from clinprompt.tasks.pairs import candidates, gold_labels, mention_index, sentence_number, sentence_spans
from clinprompt.tasks.room import Room
from clinprompt.tasks.windows import whitespace_borders

_GAP = " ... "
_HEAD, _TAIL = ("<< ", " >>"), ("[[ ", " ]]")


@dataclass(frozen=True, slots=True)
class View:
    """What is shown for one pair: one or two pieces of the text; and the sentences that should be."""

    pieces: tuple[Span, ...]
    wanted: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class RelationCodec:
    """Classification of candidate pairs (`clinprompt.tasks.pairs.candidates`); ``none`` is always a choice.

    Scope sentence: the sentence of the pair is shown. Scope document: the whole text if it fits, else the sentences
    from one argument to the other (the closest mentions of the two, for concepts), widened by neighbouring sentences
    as far as the budget goes; if the two stand too far apart, only their own sentences, joined by `` ... ``. A sentence
    that alone is too long is cut around the mention, and the cut is counted. A record without candidates has no
    example.
    """

    task: TaskDefinition
    room: Room

    def __post_init__(self) -> None:
        self.room.check(self._source(""), self.task.name)

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels and ``none``."""
        labels = [label for label in self.task.labels if label.lower() != surface.NONE]
        return (*labels, surface.NONE)

    @property
    def instruction(self) -> str:
        """A source without any text: what every example of the task costs."""
        return self._source("")

    def _source(self, text: str) -> str:
        question = f"Choose the relation of << >> and [[ ]]: {', '.join(self.choices)}."
        return surface.source(self.task.instruction or question, ("Text", text))

    def _stage(self, record: Record) -> _Stage:
        marks = (" ".join([before, after]) for before, after in (_HEAD, _TAIL))
        mark_cost = max(map(self.room.length, marks)) + 2  # words may be cut in two as well
        return _Stage(record, sentence_spans(record), mark_cost)

    def render(self, record: Record) -> list[Example]:
        gold = gold_labels(self.task, record)
        known = mention_index(record)
        stage = self._stage(record)
        examples = []
        for head, tail in candidates(self.task, record):
            view = self._view(stage, known[head], known[tail])
            text = marked(record.text, known[head], known[tail], view.pieces)
            window = (view.pieces[0][0], view.pieces[-1][1])
            label = gold.get((head, tail), surface.NONE)
            examples.append(
                Example(record.id, self._source(text), label, self.choices, window=window, arguments=(head, tail))
            )
        return examples

    def parse(self, record: Record, examples: Sequence[Example], outputs: Sequence[Output]) -> Prediction:
        known = mention_index(record)
        stage = self._stage(record)
        relations: list[Relation] = []
        malformed: list[str] = []
        views = []
        for example, output in zip(examples, outputs, strict=True):
            if example.arguments is None:
                raise ValueError(f"record {record.id!r}: a relation example without arguments")
            head, tail = example.arguments
            choice = choose(self.choices, [output])
            malformed += choice.malformed
            views.append(self._view(stage, known[head], known[tail]))
            if choice.index is not None and self.choices[choice.index] != surface.NONE:
                relations.append(Relation(self.choices[choice.index], head, tail, id=f"R{len(relations) + 1}"))
        found = replace(record, relations=tuple(relations))
        return Prediction(found, malformed=tuple(malformed), omitted=_unseen(len(record.text), views))

    def _view(self, stage: _Stage, heads: Sequence[Entity], tails: Sequence[Entity]) -> View:
        places = [span for entity in (*heads, *tails) for span in entity.spans]

        def least_and_most(pieces: tuple[Span, ...]) -> tuple[int, int]:
            """Bounds of a source's length: without marks, and with what its marks cost at most."""
            least = stage.lengths.get(pieces)
            if least is None:
                least = self.room.length(self._source(marked(stage.record.text, (), (), pieces)))
                stage.lengths[pieces] = least
            marks = sum(low < end and start < high for low, high in pieces for start, end in places)
            return least, least + marks * stage.mark_cost

        def surely_fits(pieces: tuple[Span, ...]) -> bool:
            return least_and_most(pieces)[1] <= self.room.budget

        def fits(pieces: tuple[Span, ...]) -> bool:
            least, most = least_and_most(pieces)
            if most <= self.room.budget or least > self.room.budget:
                return most <= self.room.budget
            return self.room.fits(self._source(marked(stage.record.text, heads, tails, pieces)))

        head, tail = closest(heads, tails)
        first, last = sorted((stage.sentence(head), stage.sentence(tail)))
        within = stage.between(first, last)
        if self.task.scope == "sentence":
            if fits((within,)):
                return View((within,), (within,))
        else:
            whole = stage.between(0, len(stage.sentences) - 1)
            if surely_fits((whole,)):
                return View((whole,), (whole,))
            if fits((within,)):
                widened = stage.widen(first, last, lambda span: surely_fits((span,)))
                return View((widened,), (within,))
        own = tuple(dict.fromkeys((stage.sentences[first], stage.sentences[last])))
        if len(own) == 2 and fits(own):
            return View(own, own)
        return View(stage.trim((head, tail), fits), own)


def _unseen(size: int, views: Sequence[View]) -> int:
    """Characters of wanted sentences that no view shows."""
    state = bytearray(size)
    for value, spans in ((1, [v.wanted for v in views]), (0, [v.pieces for v in views])):
        for start, end in {span for group in spans for span in group}:
            state[start:end] = bytes([value]) * (end - start)
    return sum(state)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A record's text with its sentences."""

    record: Record
    sentences: list[Span]
    mark_cost: int  # tokens that marking one fragment may add, at most
    lengths: dict[tuple[Span, ...], int] = field(default_factory=dict)  # tokens of a source without marks

    def sentence(self, entity: Entity) -> int:
        return sentence_number(self.sentences, entity.start)

    def between(self, first: int, last: int) -> Span:
        return (self.sentences[first][0], self.sentences[last][1])

    def widen(self, first: int, last: int, fits: Callable[[Span], bool]) -> Span:
        """Add sentences after and before, in turn, while they fit."""
        moved = True
        while moved:
            moved = False
            for before, after in ((0, 1), (1, 0)):
                low, high = first - before, last + after
                if low >= 0 and high < len(self.sentences) and fits(self.between(low, high)):
                    first, last, moved = low, high, True
        return self.between(first, last)

    def trim(self, entities: Sequence[Entity], fits: Callable[[tuple[Span, ...]], bool]) -> tuple[Span, ...]:
        """The mentions with as many words of their sentences around them as fit, the same number on each side."""
        words = [0, *whitespace_borders(self.record.text), len(self.record.text)]
        best = self._around(entities, 0, words)
        low, high = 0, len(words)
        while high - low > 1:
            middle = (low + high) // 2
            pieces = self._around(entities, middle, words)
            low, high, best = (middle, high, pieces) if fits(pieces) else (low, middle, best)
        return best

    def _around(self, entities: Sequence[Entity], count: int, words: Sequence[int]) -> tuple[Span, ...]:
        pieces: list[Span] = []
        for entity in sorted(entities, key=lambda entity: entity.start):
            begin, finish = self.sentences[self.sentence(entity)]
            left = max(begin, words[max(0, bisect_right(words, entity.start) - 1 - count)])
            right = min(finish, words[min(len(words) - 1, bisect_left(words, entity.end) + count)])
            if pieces and left <= pieces[-1][1]:
                pieces[-1] = (pieces[-1][0], max(right, pieces[-1][1]))
            else:
                pieces.append((left, right))
        return tuple(pieces)


def closest(heads: Sequence[Entity], tails: Sequence[Entity]) -> tuple[Entity, Entity]:
    """The head and the tail mention with the fewest characters between them; the earliest at a tie."""
    return min(
        ((head, tail) for head in heads for tail in tails),
        key=lambda pair: (max(pair[0].start, pair[1].start) - min(pair[0].end, pair[1].end), pair[0].start),
    )


def marked(text: str, heads: Sequence[Entity], tails: Sequence[Entity], pieces: Sequence[Span]) -> str:
    """The pieces of the text with every fragment of the arguments' mentions in marks."""
    insertions: list[tuple[tuple[int, int, int], int, str]] = []
    for (opening, closing), entities in ((_HEAD, heads), (_TAIL, tails)):
        for start, end in dict.fromkeys(span for entity in entities for span in trimmed(text, entity.spans) or ()):
            insertions.append(((start, 1, -end), start, opening))  # outer marks open first …
            insertions.append(((end, 0, -start), end, closing))  # … and close last
    insertions.sort(key=lambda insertion: insertion[0])
    shown = []
    for left, right in pieces:
        parts, done = [], left
        for _, offset, mark in insertions:
            is_inside = left < offset <= right if mark in (_HEAD[1], _TAIL[1]) else left <= offset < right
            if is_inside:
                parts += [text[done:offset], mark]
                done = offset
        shown.append("".join([*parts, text[done:right]]).strip())
    return _GAP.join(shown)
