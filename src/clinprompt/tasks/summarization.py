"""Summarization; sources longer than the budget are summarised window by window."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clinprompt.records import Record, Span
from clinprompt.tasks import surface
from clinprompt.tasks.codec import Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.room import LEAST_TEXT, Room
from clinprompt.tasks.windows import sentences

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class SummarizationCodec:
    """Each sentence of the gold summary is assigned to the window that shares most of its words, the earliest at a
    tie, as in DANCER (Gidiotis & Tsoumakas 2020, who compare ROUGE-L with a paper's sections; word overlap and
    sentence windows are our choice). A window without a sentence is taught ``none``. Answers are joined by line breaks
    in window order. A `question` (what part of a note is wanted) stands before the text as ``Section: …``.
    """

    task: TaskDefinition
    room: Room

    def __post_init__(self) -> None:
        self.room.check(surface.source(self._instruction()), self.task.name)

    def _instruction(self) -> str:
        return self.task.instruction or "Summarize."

    def _section(self, record: Record) -> str:
        def render(section: str) -> str:
            return surface.source(self._instruction(), ("Section", section))

        return self.room.shorten(record.question or "", render, keep="start", reserve=LEAST_TEXT)

    def _source(self, section: str) -> Callable[[str], str]:
        return lambda text: surface.source(self._instruction(), ("Section", section), ("Text", text))

    def render(self, record: Record) -> list[Example]:
        source = self._source(self._section(record))
        windows = self.room.windows(record.text, source)
        targets = assign(record.summary or "", record.text, windows)
        return [
            Example(record.id, source(record.text[start:end]), target, window=(start, end))
            for (start, end), target in zip(windows, targets, strict=True)
        ]

    def parse(self, record: Record, examples: Sequence[Example], outputs: Sequence[Output]) -> Prediction:
        answers = [output.text.strip() for output in outputs]
        several = len(answers) > 1
        parts = [_plain(answer) if several else answer for answer in answers]
        summary = "\n".join(part for part in parts if part)
        return Prediction(
            replace(record, summary=summary), omitted=len(record.question or "") - len(self._section(record))
        )


def assign(summary: str, text: str, windows: Sequence[Span]) -> list[str]:
    """One target per window; "" everywhere if there is no summary."""
    if len(windows) == 1 or not summary.strip():
        return [summary.strip()] * len(windows)
    vocabularies = [set(_WORD.findall(text[start:end].lower())) for start, end in windows]
    parts = [""] * len(windows)
    for start, end in sentences(summary):
        words = set(_WORD.findall(summary[start:end].lower()))
        overlaps = [len(words & vocabulary) for vocabulary in vocabularies]
        parts[overlaps.index(max(overlaps))] += summary[start:end]
    return [_escaped(part.strip()) for part in parts]


def _escaped(part: str) -> str:
    if not part:
        return surface.NONE
    return "\\" + part if part.lstrip("\\").lower() == surface.NONE else part


def _plain(answer: str) -> str:
    if answer.lower() == surface.NONE:
        return ""
    return answer[1:] if answer.startswith("\\") and answer.lstrip("\\").lower() == surface.NONE else answer
