"""Records by year, quarter, month, site or any other field: what `drift` compares.

A field is a key of a record's `meta` (dots lead into nested ones), or `group` or `label`. Readers of tables and JSON
Lines fill `meta`; for formats that hold none, a table beside the corpus gives fields by record id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from clinprompt.corpora.tabular import read_tabular
from clinprompt.errors import CorpusError, TaskError, unknown_name
from clinprompt.records import Record

UNITS = ("year", "quarter", "month")
MOST_SLICES = 60
LONGEST_LABEL = 60  # characters: what is longer is text, and text of notes is never printed
OWN_FIELDS = ("group", "label")


@dataclass(frozen=True)
class Slicing:
    """A slice for every record (None: it lacks the field), and the slices in order with their places on a scale.

    `places` are numbers where the slices have an order (years, quarters and months are counted as such, so that a gap
    of two years is a gap of two), empty where they have none (sites).
    """

    labels: tuple[str | None, ...]
    names: tuple[str, ...]
    places: tuple[float, ...] = ()

    @property
    def missing(self) -> int:
        """Records that lack the field."""
        return sum(label is None for label in self.labels)


def slice_records(
    records: Sequence[Record], by: str, *, date_field: str | None = None, date_format: str | None = None
) -> Slicing:
    """The slice of each record: `by` a field, or by year, quarter or month of `date_field` (default: ``date``).

    Dates are ISO (2024-03-31, 2024-03, 2024), date cells of a spreadsheet, or in `date_format` (strptime's). A corpus
    that has a field called ``year`` and no ``date`` is sliced by it as it is. Raises TaskError for a field that no
    record has, for what is no date, and for more than 60 slices; the messages quote no value.
    """
    if by in UNITS and (date_field or _has(records, "date") or not _has(records, by)):
        source = date_field or "date"
        _require(records, source, f"--by {by} reads dates from the field")
        periods = [_period(record, source, by, date_format) for record in records]
        return _ordered([None if p is None else _called(p, by) for p in periods], periods)
    if date_field or date_format:
        raise TaskError(f"a date field and format belong to --by {', '.join(UNITS)}, not to --by {by}.")
    _require(records, by, "--by names the field")
    labels = [_label(record, by) for record in records]
    numbers = [None if label is None else _number(label) for label in labels]
    if all((label is None) == (number is None) for label, number in zip(labels, numbers, strict=True)):
        return _ordered(labels, numbers)
    return _few(Slicing(tuple(labels), tuple(sorted({label for label in labels if label is not None}))))


def with_fields(records: Sequence[Record], table: Path, fields: Sequence[str]) -> list[Record]:
    """Records whose `meta` has these fields, from a table (CSV, TSV, XLSX, JSON Lines) with a column `id`.

    Records that the table lacks stay as they are. Raises CorpusError if no id of the table is one of the records'.
    """
    rows = read_tabular(table, {"id": "id", **{f"meta.{field}": field for field in fields}})
    by_id = {row.id: row.meta for row in rows}
    if not set(by_id) & {record.id for record in records}:
        raise CorpusError(
            table, None, "no value of its column `id` is the id of a record.", "`clinprompt data show` lists ids."
        )
    return [replace(record, meta={**record.meta, **by_id.get(record.id, {})}) for record in records]


def _value(record: Record, field: str) -> Any:
    """The value of a field, None if the record lacks it (or it is empty)."""
    value: Any = record.meta.get(field)
    if value is None and "." in field:
        value = record.meta
        for part in field.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if value is None and field in OWN_FIELDS:
        value = getattr(record, field)
    return None if value == "" else value


def _has(records: Sequence[Record], field: str) -> bool:
    return any(_value(record, field) is not None for record in records)


def _require(records: Sequence[Record], field: str, what: str) -> None:
    if _has(records, field):
        return
    known = sorted({str(key) for record in records for key in record.meta if _plain(record.meta[key])})
    known += [name for name in OWN_FIELDS if any(getattr(record, name) for record in records)]
    raise TaskError(
        f"{what} `{field}`, which no record has: {unknown_name('field', field, known)} Fields come from `meta` of "
        "records, from `columns: {meta.NAME: column}` of a task file, or from --fields TABLE."
    )


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | date)


def _label(record: Record, field: str) -> str | None:
    value = _value(record, field)
    if value is None:
        return None
    text = str(value.isoformat() if isinstance(value, date) else value).strip()
    if not _plain(value) or len(text) > LONGEST_LABEL or "\n" in text:
        raise TaskError(
            f"record {record.id}: the field `{field}` holds no label (a short text or a number); choose another field."
        )
    return text


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def _period(record: Record, field: str, unit: str, form: str | None) -> int | None:
    """Years, quarters or months since year 0."""
    value = _value(record, field)
    if value is None:
        return None
    found = _date(value, form, unit)
    if found is None:
        cure = f"Give its form with --date-format, for example %d.%m.%Y (now {form or 'ISO'})."
        raise TaskError(f"record {record.id}: the field `{field}` is not a date that has a {unit}. {cure}")
    if unit == "year":
        return found.year
    return found.year * 4 + (found.month - 1) // 3 if unit == "quarter" else found.year * 12 + found.month - 1


def _date(value: Any, form: str | None, unit: str) -> date | None:
    if isinstance(value, date):  # a datetime is a date
        return value
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    try:
        if form is not None:
            return datetime.strptime(text, form).date()
        if len(text) == 4 and unit == "year":
            return date(int(text), 1, 1)
        if len(text) == 7 and text[4] == "-" and text[5].isdigit():
            return date(int(text[:4]), int(text[5:]), 1)
        return datetime.fromisoformat(text).date()
    except ValueError:
        return None


def _called(period: int, unit: str) -> str:
    if unit == "year":
        return f"{period:04d}"
    return f"{period // 4:04d}-Q{period % 4 + 1}" if unit == "quarter" else f"{period // 12:04d}-{period % 12 + 1:02d}"


def _ordered(labels: Sequence[str | None], numbers: Sequence[float | None]) -> Slicing:
    """Slices by their numbers. Labels of one number (``1`` and ``1.0``) stay apart, in the order of their names."""
    pairs = {(number, label) for number, label in zip(numbers, labels, strict=True) if number is not None}
    ordered = sorted((number, str(label)) for number, label in pairs)
    return _few(Slicing(tuple(labels), tuple(label for _, label in ordered), tuple(float(n) for n, _ in ordered)))


def _few(slicing: Slicing) -> Slicing:
    if len(slicing.names) > MOST_SLICES:
        raise TaskError(
            f"{len(slicing.names)} different values: at most {MOST_SLICES} slices can be compared. Choose a coarser "
            "field, or bin dates with --by year, quarter or month."
        )
    return slicing
