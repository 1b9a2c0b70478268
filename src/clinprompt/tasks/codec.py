"""The contract between a task and a language model: records become examples, answers become records.

A codec is lossless on gold: `parse(record, render(record), the targets)` gives the record's structure back. A record
may render to several examples (windows of a long document, candidate pairs of a relation task); `parse` takes the
answers to all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clinprompt.records import Record, Span

TokenLength = Callable[[str], int]
"""Number of tokens of a text under the backbone's tokenizer; windows are measured with it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question to the model.

    `source` holds the instruction, the text and the answer cue; `target` the gold answer ("" when there is no gold).
    With `choices` the answer is one of them, decided by length-normalised likelihood; without, it is generated.
    `window` is the part of `Record.text` shown; `arguments` the candidate pair of a relation example.
    """

    record_id: str
    source: str
    target: str
    choices: tuple[str, ...] = ()
    window: Span = (0, 0)
    arguments: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A model's answer to one example: `text`, and for a closed choice the log-likelihood per token of each one."""

    text: str
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """A record with predicted structure, and what the model said that could not be used.

    `ungrounded` are generated mentions that do not occur in the text (each counts as a false positive); `malformed`
    are fragments of answers that do not follow the format. `probabilities`: label or option key → probability.
    `omitted` counts the characters of the record that no example showed; 0 unless a single unit exceeds the window.
    """

    record: Record
    ungrounded: tuple[tuple[str, str], ...] = ()  # (type, surface)
    malformed: tuple[str, ...] = ()
    probabilities: Mapping[str, float] = field(default_factory=dict)
    omitted: int = 0


class Codec(Protocol):
    """Renders the records of one task and parses the answers."""

    def render(self, record: Record) -> list[Example]:
        """All examples of a record, in the order `parse` expects their outputs. Never empty for a valid record."""
        ...

    def parse(self, record: Record, examples: Sequence[Example], outputs: Sequence[Output]) -> Prediction:
        """Structure from answers; gold fields of `record` are not looked at (given entities excepted)."""
        ...
