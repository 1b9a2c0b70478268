"""Named entities: ``Find: Chemical, Disease.`` is answered with ``Disease: breast cancer; Chemical: tamoxifen``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinprompt.records import Entity, Record
from clinprompt.tasks import surface
from clinprompt.tasks.codec import Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.grounding import Grounder, Spans, trimmed
from clinprompt.tasks.room import Room


@dataclass(frozen=True, slots=True)
class NerCodec:
    """Entities of the task's labels as a list in text order; with one label only, no type is written.

    The windows of a record without entities have borders between sentences; gold entities are never cut by a border
    (the windows that a model is trained on may thus differ slightly from those it is asked about).
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
        instruction = self.task.instruction or f"Find: {', '.join(self.task.labels)}."
        return surface.source(instruction, ("Text", text))

    def expressible(self, record: Record) -> list[tuple[str, Spans]]:
        """The distinct (type, spans) an answer can state, in text order: the task's labels, white space trimmed."""
        order = {label: rank for rank, label in enumerate(self.task.labels)}
        found = {
            (entity.type, spans)
            for entity in record.entities
            if entity.type in order and (spans := trimmed(record.text, entity.spans)) is not None
        }
        return sorted(found, key=lambda item: (item[1][0][0], -item[1][-1][1], item[1], order[item[0]]))

    def render(self, record: Record) -> list[Example]:
        entities = self.expressible(record)
        hulls = [(spans[0][0], spans[-1][1]) for _, spans in entities]
        windows = self.room.windows(record.text, self._source, whole=hulls)
        return [
            Example(
                record.id,
                self._source(record.text[start:end]),
                self._target(record.text[start:end], _within(entities, start, end)),
                window=(start, end),
            )
            for start, end in windows
        ]

    def _target(self, text: str, entities: Sequence[tuple[str, Spans]]) -> str:
        grounder = Grounder(text)
        taken: dict[str, set[Spans]] = defaultdict(set)
        cursor, written = 0, []
        for kind, spans in entities:
            parts = [surface.normalise(text[start:end]) for start, end in spans]
            numbers: list[int | None] = [None] * len(parts)
            if grounder.locate([(part, None) for part in parts], cursor=cursor, taken=taken[kind]) != spans:
                numbers = [grounder.number_of(span) for span in spans]
            mention = surface.write_mention(parts, numbers)
            if len(self.task.labels) == 1:
                written.append("\\" + mention if mention.lower() == surface.NONE else mention)
            else:
                written.append(f"{kind}: {mention}")
            taken[kind].add(spans)
            cursor = spans[0][0]
        return "; ".join(written) or surface.NONE

    def parse(self, record: Record, examples: Sequence[Example], outputs: Sequence[Output]) -> Prediction:
        entities: list[tuple[str, Spans]] = []
        ungrounded: list[tuple[str, str]] = []
        malformed: list[str] = []
        for example, output in zip(examples, outputs, strict=True):
            start, end = example.window
            found = self._read(record.text[start:end], output.text, ungrounded, malformed)
            entities += [(kind, tuple((start + a, start + b) for a, b in spans)) for kind, spans in found]
        predicted = tuple(Entity(f"T{n}", kind, spans) for n, (kind, spans) in enumerate(entities, 1))
        return Prediction(replace(record, entities=predicted, relations=()), tuple(ungrounded), tuple(malformed))

    def _read(
        self, text: str, answer: str, ungrounded: list[tuple[str, str]], malformed: list[str]
    ) -> list[tuple[str, Spans]]:
        """The grounded entities of one window; what cannot be used is appended to the two lists."""
        grounder = Grounder(text)
        taken: dict[str, set[Spans]] = defaultdict(set)
        cursor, found = 0, []
        for item in surface.items(answer):
            named = self._label_and_mention(item)
            parts = surface.fragments(named[1]) if named else []
            if named is None or not parts:
                malformed.append(item)
                continue
            kind = named[0]
            spans = grounder.locate(parts, cursor=cursor, taken=taken[kind])
            if spans is None:
                ungrounded.append((kind, " ".join(part for part, _ in parts)))
                continue
            taken[kind].add(spans)
            cursor = spans[0][0]
            found.append((kind, spans))
        return sorted(found, key=lambda item: (item[1][0][0], -item[1][-1][1]))

    def _label_and_mention(self, item: str) -> tuple[str, str] | None:
        if len(self.task.labels) == 1:
            return next(iter(self.task.labels)), item
        parts = surface.typed(item)
        if parts is None:
            return None
        by_case = {label.lower(): label for label in reversed(self.task.labels)}
        label = parts[0] if parts[0] in self.task.labels else by_case.get(parts[0].lower())
        return (label, parts[1]) if label else None


def _within(entities: Sequence[tuple[str, Spans]], start: int, end: int) -> list[tuple[str, Spans]]:
    """The entities that lie wholly in a window, with offsets in the window."""
    return [
        (kind, tuple((a - start, b - start) for a, b in spans))
        for kind, spans in entities
        if start <= spans[0][0] and spans[-1][1] <= end
    ]
