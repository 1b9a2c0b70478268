"""Natural language inference: premise and hypothesis, one of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks import surface
from clinprompt.tasks.choices import choose
from clinprompt.tasks.codec import Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.room import LEAST_TEXT, Room


@dataclass(frozen=True, slots=True)
class NliCodec:
    """A premise longer than the budget is shown in windows, each with the whole hypothesis; the likelihoods of the
    labels are averaged over the windows. A hypothesis that alone exceeds the budget is cut at its end and counted.
    """

    task: TaskDefinition
    room: Room

    def __post_init__(self) -> None:
        self.room.check(self._source("", ""), self.task.name)

    def _source(self, premise: str, hypothesis: str) -> str:
        instruction = self.task.instruction or f"Choose: {', '.join(self.task.labels)}."
        return surface.source(instruction, ("Premise", premise), ("Hypothesis", hypothesis))

    def _hypothesis(self, record: Record) -> str:
        reserve = min(LEAST_TEXT, self.room.length(record.text))
        text = record.hypothesis or ""
        return self.room.shorten(text, lambda part: self._source("", part), keep="start", reserve=reserve)

    def render(self, record: Record) -> list[Example]:
        if record.label is not None and record.label not in self.task.labels:
            raise TaskError(
                f"task {self.task.name}: the label of record {record.id} is none of {', '.join(self.task.labels)}."
            )
        hypothesis = self._hypothesis(record)
        windows = self.room.windows(record.text, lambda text: self._source(text, hypothesis))
        return [
            Example(
                record.id,
                self._source(record.text[start:end], hypothesis),
                record.label or "",
                choices=tuple(self.task.labels),
                window=(start, end),
            )
            for start, end in windows
        ]

    def parse(self, record: Record, examples: Sequence[Example], outputs: Sequence[Output]) -> Prediction:
        labels = list(self.task.labels)
        choice = choose(labels, outputs)
        label = labels[choice.index] if choice.index is not None else None
        return Prediction(
            replace(record, label=label),
            malformed=choice.malformed,
            probabilities=dict(zip(labels, choice.probabilities, strict=False)),
            omitted=len(record.hypothesis or "") - len(self._hypothesis(record)),
        )
