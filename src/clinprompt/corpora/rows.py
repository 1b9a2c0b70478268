"""From a row of cells to a record: the column mapping that all table formats share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from clinprompt.corpora.source import checked_entity, shown, whole_number
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

FIELDS = (
    "id",
    "text",
    "label",
    "question",
    "options",
    "answer",
    "hypothesis",
    "summary",
    "group",
    "entities",
    "relations",
)
_TEXT_FIELDS = ("question", "hypothesis", "summary")
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Row:
    """Cells by column name; `line` is where the row begins, None in formats without lines."""

    number: int
    line: int | None
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with their header; `names` is None where every row names its own cells (JSON)."""

    path: Path
    rows: Sequence[Row]
    names: Sequence[str] | None = None
    header_line: int | None = None


def cell(row: Row, column: str) -> Any:
    """The value at a column name, or at a dotted path into nested objects and lists; `_ABSENT` if there is none."""
    if column in row.cells:
        return row.cells[column]
    if column == "@row":
        return row.number
    value: Any = row.cells
    for part in column.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and (index := whole_number(part)) is not None and index < len(value):
            value = value[index]
        else:
            return _ABSENT
    return value


@dataclass(frozen=True, slots=True)
class RowMapping:
    """How cells become a record; make one with `for_table`, which checks that every column exists exactly once."""

    path: Path
    columns: Mapping[str, str]
    label_names: Mapping[str, str] | None = None
    option_separator: str | None = None
    answer_base: int | None = None
    stem: str = field(default="")

    @classmethod
    def for_table(cls, table: Table, columns: Mapping[str, str], **settings: Any) -> RowMapping:
        chosen = dict(columns) or _identity(table)
        _check_fields(table, chosen)
        _check_columns(table, chosen)
        stem = table.path.name.removesuffix(".gz").rsplit(".", 1)[0]
        return cls(table.path, chosen, stem=stem, **settings)

    def record(self, row: Row) -> Record:
        text = self._text(row, "text") or ""
        entities = self._entities(row, text)
        options = self._options(row)
        return Record(
            id=self._text(row, "id") or f"{self.stem}:{row.number}",
            text=text,
            entities=entities,
            relations=self._relations(row, entities),
            label=self._label(row),
            options=options,
            answer=self._answer(row, options),
            group=self._text(row, "group") or "",
            meta={key[5:]: self._value(row, key) for key in self.columns if key.startswith("meta.")},
            **{name: self._text(row, name) for name in _TEXT_FIELDS},
        )

    def _value(self, row: Row, name: str) -> Any:
        """The cell of a field; None when it is not mapped, not in this row, or empty."""
        column = self.columns.get(name)
        value = cell(row, column) if column is not None else None
        return None if value is _ABSENT or value == "" else value

    def _text(self, row: Row, name: str) -> str | None:
        return self._as_text(row, name, self._value(row, name))

    def _as_text(self, row: Row, name: str, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(int(value)) if float(value).is_integer() else str(value)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return "\n".join(value)
        if hasattr(value, "isoformat"):  # a date cell of a spreadsheet
            return str(value.isoformat())
        raise self._error(row, name, f"holds {_kind(value)}, not text.", "Map a column with text.")

    def _error(self, row: Row, name: str, problem: str, cure: str) -> CorpusError:
        place = "" if row.line is not None else f"row {row.number}: "
        return CorpusError(self.path, row.line, f"{place}column {self.columns[name]!r} ({name}) {problem}", cure)

    def _label(self, row: Row) -> str | None:
        value = self._text(row, "label")
        if value is None or self.label_names is None:
            return value.strip() if value is not None else None
        if value.strip() not in self.label_names:
            known = ", ".join(self.label_names)
            raise self._error(row, "label", f"has a value that `label_names` lacks (it has: {known}).", "Add it.")
        return self.label_names[value.strip()]

    # -- question answering --

    def _options(self, row: Row) -> tuple[tuple[str, str], ...]:
        listed = self._parsed(row, "options", self.option_separator)
        single = [key for key in self.columns if key.startswith("option.")]
        if isinstance(listed, Mapping):
            pairs = list(listed.items())
        elif isinstance(listed, list):
            pairs = [_pair(index, item) for index, item in enumerate(listed)]
        else:
            pairs = [(key[7:], self._value(row, key)) for key in single]
        texts = [(str(key), self._as_text(row, "options" if listed else f"option.{key}", v)) for key, v in pairs]
        return tuple((key, text.strip()) for key, text in texts if text is not None)

    def _answer(self, row: Row, options: tuple[tuple[str, str], ...]) -> str | None:
        value = self._text(row, "answer")
        if value is None or not options:
            return value
        value = value.strip()
        keys = [key for key, _ in options]
        if self.answer_base is not None:
            number = whole_number(value)
            position = -1 if number is None else number - self.answer_base
            if not 0 <= position < len(options):
                problem = f"is not a position among {len(options)} options counted from {self.answer_base}."
                raise self._error(row, "answer", problem, "Correct it, or `answer_base`.")
            return keys[position]
        matches = [key for key, text in options if text == value]
        if value in keys or len(matches) != 1:
            if value not in keys:
                problem = f"is neither an option's key ({', '.join(keys)}) nor the text of exactly one option."
                raise self._error(row, "answer", problem, "Correct it, or set `answer_base` if it is a position.")
            return value
        return matches[0]

    # -- structure --

    def _parsed(self, row: Row, name: str, separator: str | None = None) -> Any:
        """A cell that holds structure: as it is in JSON, parsed from text in tables."""
        value = self._value(row, name)
        if not isinstance(value, str):
            return value
        if separator is not None:
            return [part.strip() for part in value.split(separator)]
        try:
            return json.loads(value)
        except ValueError:
            cure = "Write a JSON list, or set `option_separator`." if name == "options" else "Write a JSON list."
            raise self._error(row, name, "is not JSON.", cure) from None

    def _entities(self, row: Row, text: str) -> tuple[Entity, ...]:
        found: list[Entity] = []
        for number, item in enumerate(self._list(row, "entities"), start=1):
            name, kind, spans, concepts = self._entity_parts(row, number, item)
            found.append(checked_entity(self.path, row.line, text, id=name, type=kind, spans=spans, concepts=concepts))
        if len({e.id for e in found}) < len(found):
            raise self._error(row, "entities", "uses an id twice.", "Give each mention its own id, or none.")
        return tuple(found)

    def _entity_parts(self, row: Row, number: int, item: Any) -> tuple[str, str, list[tuple[int, int]], list[str]]:
        try:
            if isinstance(item, Mapping):
                spans = item["spans"] if "spans" in item else [(item["start"], item["end"])]
                kind = item["type"] if "type" in item else item["label"]
                name = str(item.get("id") or f"T{number}")
                concepts = [str(concept) for concept in item.get("concepts") or ()]
            else:
                start, end, kind = item
                spans, name, concepts = [(start, end)], f"T{number}", []
            pairs = [(_integer(start), _integer(end)) for start, end in spans]
        except (KeyError, TypeError, ValueError):
            cure = 'Write {"start": 0, "end": 5, "type": "…"}, or "spans": [[0, 5], …], or [0, 5, "type"].'
            raise self._error(row, "entities", f"item {number} is not a mention.", cure) from None
        return name, str(kind), pairs, concepts

    def _relations(self, row: Row, entities: tuple[Entity, ...]) -> tuple[Relation, ...]:
        known = {e.id for e in entities} | {concept for e in entities for concept in e.concepts}
        found: list[Relation] = []
        for number, item in enumerate(self._list(row, "relations"), start=1):
            try:
                if isinstance(item, Mapping):
                    kind, head, tail = (str(item[key]) for key in ("type", "head", "tail"))
                else:
                    kind, head, tail = (str(part) for part in item)
            except (KeyError, TypeError, ValueError):
                cure = 'Write {"type": "…", "head": "T1", "tail": "T2"}, or ["type", "T1", "T2"].'
                raise self._error(row, "relations", f"item {number} is not a relation.", cure) from None
            if unknown := {head, tail} - known:
                problem = f"item {number} refers to {min(unknown)!r}, which no mention of the row has as id or concept."
                raise self._error(row, "relations", problem, "Correct the reference.")
            found.append(Relation(kind, head, tail, f"R{number}"))
        return tuple(found)

    def _list(self, row: Row, name: str) -> list[Any]:
        value = self._parsed(row, name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(row, name, f"holds {_kind(value)}, not a list.", "Write a list.")
        return value


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    if isinstance(value, Mapping):
        return "an object"
    kinds = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _integer(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError
    return int(value)


def _pair(index: int, item: Any) -> tuple[str, Any]:
    """One option of a list: bare text, or an object with key/label and text/value (as in several public sets)."""
    if isinstance(item, Mapping):
        key = next((item[name] for name in ("key", "label", "id", "aid") if name in item), _letter(index))
        return str(key), next((item[name] for name in ("text", "value", "atext") if name in item), None)
    return _letter(index), item


def _letter(index: int) -> str:
    return ascii_uppercase[index] if index < 26 else str(index + 1)


def _identity(table: Table) -> dict[str, str]:
    names: Iterator[str] = iter(table.names or dict.fromkeys(key for row in table.rows for key in row.cells))
    return {name: name for name in names if name in FIELDS or name.startswith(("option.", "meta."))}


def _check_fields(table: Table, columns: Mapping[str, str]) -> None:
    if not columns and table.rows:
        existing = _existing(table)
        problem = f"no column is mapped, and none is named like a field (columns: {existing})."
        raise CorpusError(table.path, table.header_line, problem, f"Map them; fields: {', '.join(FIELDS)}.")
    for name in columns:
        if name not in FIELDS and not re.match(r"(option|meta)\..", name):
            fields = ", ".join([*FIELDS, "option.KEY", "meta.KEY"])
            raise CorpusError(table.path, None, f"`columns` has an unknown field {name!r}.", f"Fields: {fields}.")


def _check_columns(table: Table, columns: Mapping[str, str]) -> None:
    for name, column in columns.items():
        if table.names is not None and list(table.names).count(column) > 1:
            problem = f"column {column!r} ({name}) appears more than once."
            raise CorpusError(table.path, table.header_line, problem, "Rename one, or give its position: 0, 1, …")
        if table.rows and all(cell(row, column) is _ABSENT for row in table.rows):
            problem = f"there is no column {column!r} ({name}). Columns: {_existing(table)}."
            raise CorpusError(table.path, table.header_line, problem, "Correct `columns`.")


def _existing(table: Table) -> str:
    names = table.names or dict.fromkeys(key for row in table.rows[:100] for key in row.cells)
    return ", ".join(shown(str(name)) for name in names) or "(none)"
