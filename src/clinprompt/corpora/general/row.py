"""One row of a hub data set, read with checks that name the file and the row, never a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinprompt.errors import CorpusError
from clinprompt.records import Record


@dataclass(frozen=True, slots=True)
class HubRow:
    """`number` counts the rows of a part from 1; `name` is unique within a task's split and becomes the record's id."""

    path: Path
    number: int
    name: str
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """A text without the white space at its ends; may be empty."""
        value = self.values[column]
        if not isinstance(value, str):
            raise self.error(column, "holds no text.")
        return value.strip()

    def texts(self, column: str, value: Any = None) -> list[str]:
        """A list of texts (of `value` where the list stands inside a structure)."""
        found = self.values[column] if value is None else value
        if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(x, str) for x in found):
            raise self.error(column, "holds no list of texts.")
        return [text.strip() for text in found]

    def integer(self, column: str) -> int:
        """A whole number; text that spells one counts, as in several data sets' labels."""
        value = self.values[column]
        if isinstance(value, str) and value.strip().lstrip("-").isascii() and value.strip().lstrip("-").isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(column, "holds no whole number.")
        return value

    def number_in(self, column: str, low: float, high: float) -> float:
        """A number between two bounds."""
        value = self.values[column]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(column, f"holds no number from {low:g} to {high:g}.")
        return float(value)

    def label(self, column: str, names: Sequence[str]) -> str:
        """The name of a class label, stored as its number. -1 is how the hub marks labels that were never published."""
        index = self.integer(column)
        if index == -1:
            raise self.error(column, "is -1: the labels of this split are hidden.", "Use the split the catalog names.")
        if not 0 <= index < len(names):
            raise self.error(column, f"is no class number from 0 to {len(names) - 1}.")
        return names[index]

    def structure(self, column: str, *keys: str) -> Mapping[str, Any]:
        """A structure that has these keys."""
        value = self.values[column]
        if not isinstance(value, Mapping) or any(key not in value for key in keys):
            raise self.error(column, f"holds no structure with {', '.join(keys)}.")
        return value

    def error(self, column: str, problem: str, cure: str = "The file is not what the catalog pins.") -> CorpusError:
        """An error at this row."""
        return CorpusError(self.path, None, f"row {self.number}: column {column!r} {problem}", cure)


@dataclass(frozen=True, slots=True)
class Converter:
    """How rows become records: the columns that are read, and the conversion."""

    columns: tuple[str, ...]
    record: Callable[[HubRow], Record]
