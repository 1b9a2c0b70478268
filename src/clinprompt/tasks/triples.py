"""Relations end to end: ``Drug: aspirin | treats | Disease: headache; …``, both arguments grounded in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks import surface
from clinprompt.tasks.codec import Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.grounding import Grounder, Spans, trimmed
from clinprompt.tasks.pairs import mention_index
from clinprompt.tasks.relation import closest
from clinprompt.tasks.room import Room

_SPECIAL = ";\\|:"

Mention = tuple[str, Spans]
Triple = tuple[Mention, str, Mention]  # head, relation type, tail


@dataclass(frozen=True, slots=True)
class TripleCodec:
    """Triples in text order of their heads. The head stands at its next occurrence from the start of the head before
    it; the tail at its occurrence closest to the head; ``#k`` says otherwise. Concepts are stated by the closest
    mentions of the two. Entities without a relation are not stated. A relation whose arguments do not fit one window
    cannot be stated; the borders of windows avoid that where they can.
    """

    task: TaskDefinition
    room: Room

    def __post_init__(self) -> None:
        self.room.check(self._source(""), self.task.name)

    @property
    def instruction(self) -> str:
        """A source without any text: what every example of the task costs."""
        return self._source("")

    def _source(self, text: str) -> str:
        instruction = self.task.instruction or f"Find relations: {', '.join(self.task.labels)}."
        return surface.source(instruction, ("Text", text))

    def expressible(self, record: Record) -> list[Triple]:
        """The distinct triples of the task's labels, in text order of heads and tails."""
        known, found = mention_index(record), set()
        for relation in record.relations:
            if relation.type not in self.task.labels or relation.head not in known or relation.tail not in known:
                continue
            head, tail = closest(known[relation.head], known[relation.tail])
            spans = trimmed(record.text, head.spans), trimmed(record.text, tail.spans)
            if spans[0] is not None and spans[1] is not None:
                found.add(((head.type, spans[0]), relation.type, (tail.type, spans[1])))
        return sorted(found, key=lambda triple: (triple[0][1], triple[2][1], triple[1], triple[0][0], triple[2][0]))

    def render(self, record: Record) -> list[Example]:
        triples = self.expressible(record)
        hulls = [_hull(head[1]) for head, _, _ in triples] + [_hull(tail[1]) for _, _, tail in triples]
        pairs = [_hull((*head[1], *tail[1])) for head, _, tail in triples]
        windows = self.room.windows(record.text, self._source, whole=hulls, together=pairs)
        examples = []
        for start, end in windows:
            shown = [triple for triple, (low, high) in zip(triples, pairs, strict=True) if start <= low and high <= end]
            target = self._target(record.text[start:end], [_moved(triple, -start) for triple in shown])
            examples.append(Example(record.id, self._source(record.text[start:end]), target, window=(start, end)))
        return examples

    def _target(self, text: str, triples: Sequence[Triple]) -> str:
        grounder, cursor, written = Grounder(text), 0, []
        for (head_type, head), label, (tail_type, tail) in triples:
            head_parts = [surface.normalise(text[a:b]) for a, b in head]
            tail_parts = [surface.normalise(text[a:b]) for a, b in tail]
            plain_head = grounder.locate([(part, None) for part in head_parts], cursor=cursor) == head
            plain_tail = _nearest(grounder, [(part, None) for part in tail_parts], head) == tail
            head_numbers = [None if plain_head else grounder.number_of(span) for span in head]
            tail_numbers = [None if plain_tail else grounder.number_of(span) for span in tail]
            left = surface.write_mention(head_parts, head_numbers, special=_SPECIAL)
            right = surface.write_mention(tail_parts, tail_numbers, special=_SPECIAL)
            kinds = surface.escape(head_type, special=_SPECIAL), surface.escape(tail_type, special=_SPECIAL)
            written.append(f"{kinds[0]}: {left} | {label} | {kinds[1]}: {right}")
            cursor = head[0][0]
        return "; ".join(written) or surface.NONE

    def parse(self, record: Record, examples: Sequence[Example], outputs: Sequence[Output]) -> Prediction:
        triples: dict[Triple, None] = {}
        ungrounded: list[tuple[str, str]] = []
        malformed: list[str] = []
        for example, output in zip(examples, outputs, strict=True):
            start, end = example.window
            for triple in self._read(record.text[start:end], output.text, ungrounded, malformed):
                triples[_moved(triple, start)] = None
        mentions = sorted({m for head, _, tail in triples for m in (head, tail)}, key=lambda m: (m[1], m[0]))
        ids = {mention: f"T{number}" for number, mention in enumerate(mentions, 1)}
        entities = tuple(Entity(ids[mention], *mention) for mention in mentions)
        relations = tuple(
            Relation(label, ids[head], ids[tail], id=f"R{number}")
            for number, (head, label, tail) in enumerate(triples, 1)
        )
        predicted = replace(record, entities=entities, relations=relations)
        return Prediction(predicted, tuple(ungrounded), tuple(malformed))

    def _read(self, text: str, answer: str, ungrounded: list[tuple[str, str]], malformed: list[str]) -> list[Triple]:
        grounder, cursor, found = Grounder(text), 0, []
        for item in surface.items(answer):
            read = self._arguments_and_label(item)
            if read is None:
                malformed.append(item)
                continue
            (head_type, head_parts), label, (tail_type, tail_parts) = read
            head = grounder.locate(head_parts, cursor=cursor)
            tail = _nearest(grounder, tail_parts, head) if head is not None else None
            if head is None or tail is None:
                missing = head_parts if head is None else tail_parts
                ungrounded.append((label, " ".join(part for part, _ in missing)))
                continue
            cursor = head[0][0]
            found.append(((head_type, head), label, (tail_type, tail)))
        return found

    def _arguments_and_label(self, item: str) -> tuple[_Written, str, _Written] | None:
        parts = [part.strip() for part in surface.split_unescaped(item, "|")]
        if len(parts) != 3:
            return None
        by_case = {label.lower(): label for label in reversed(self.task.labels)}
        label = parts[1] if parts[1] in self.task.labels else by_case.get(parts[1].lower())
        head, tail = surface.typed(parts[0]), surface.typed(parts[2])
        if label is None or head is None or tail is None:
            return None
        arguments = (head[0], surface.fragments(head[1])), (tail[0], surface.fragments(tail[1]))
        return (arguments[0], label, arguments[1]) if arguments[0][1] and arguments[1][1] else None


_Written = tuple[str, list[tuple[str, int | None]]]


def _nearest(grounder: Grounder, parts: Sequence[tuple[str, int | None]], head: Spans) -> Spans | None:
    """The place of a tail closest to the head and not the head itself; bounded occurrences are preferred."""
    if not parts:
        return None
    mention, number = parts[0]
    plain = grounder.occurrences(mention)
    low, high = _hull(head)
    pools = (grounder.bounded(mention), plain) if number is None else (plain[number - 1 : number] if number else (),)
    for pool in pools:
        for span in sorted(pool, key=lambda span: (max(span[0], low) - min(span[1], high), span)):
            spans = grounder.locate([(mention, plain.index(span) + 1), *parts[1:]], taken=(head,) if not number else ())
            if spans is not None:
                return spans
    return None


def _hull(spans: Spans) -> tuple[int, int]:
    return min(start for start, _ in spans), max(end for _, end in spans)


def _moved(triple: Triple, by: int) -> Triple:
    (head_type, head), label, (tail_type, tail) = triple
    return (
        (head_type, tuple((a + by, b + by) for a, b in head)),
        label,
        (tail_type, tuple((a + by, b + by) for a, b in tail)),
    )
