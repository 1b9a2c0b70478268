"""CSV, TSV, JSON, JSON Lines and XLSX, with a mapping from record fields to columns."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from openpyxl import load_workbook

from clinprompt.corpora.rows import Row, RowMapping, Table, cell
from clinprompt.corpora.source import numbered_lines, read_text, whole_number
from clinprompt.errors import CorpusError
from clinprompt.records import Record

TableFormat = Literal["csv", "tsv", "jsonl", "json", "xlsx"]
_SUFFIXES: dict[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".xlsx": "xlsx",
}


def read_tabular(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    format: TableFormat | None = None,
    header: bool = True,
    delimiter: str | None = None,
    quoting: Literal["auto", "minimal", "none"] = "auto",
    encoding: str = "utf-8",
    sheet: str | None = None,
    items: str | None = None,
    label_names: Mapping[str, str] | None = None,
    option_separator: str | None = None,
    answer_base: int | None = None,
) -> list[Record]:
    """One record per row.

    columns: record field → column. Fields: id, text, label, question, options, answer, hypothesis, summary, group,
        entities, relations, ``option.KEY`` for one option's text, ``meta.KEY`` for anything to keep. A column is a name
        from the header; a position ("0", "1", …) where there is no header, or no column of that name; in JSON, a key
        or a dotted path; ``@key`` is the key of an item of a JSON object, ``@row`` the row's number (from 1). Without
        a mapping, columns named like fields are taken.
    format: from the suffix if None. delimiter: from the format if None. quoting: "auto" is quotes in CSV, none in TSV
        (where a quotation mark is text).
    items: dotted path to the list (or object) of items inside a JSON file.
    label_names: value in the file → label; a value that is not in it is an error.
    options: a list, an object {key: text}, JSON of either, or text split at `option_separator`; keys of a list are
        A, B, C, …
    answer: an option's key, or its text, or with `answer_base` (0 or 1) its position; kept as it is without options.
    entities: [{"start", "end", "type", optional "id", "concepts"}] or [[start, end, type]], or "spans" for
        discontinuous ones. relations: [{"type", "head", "tail"}] or [[type, head, tail]].

    Ids default to ``<file stem>:<row>``. Lists of strings become lines of a text. Empty rows are left out.
    Raises CorpusError naming file, line and column.
    """
    path = Path(path)
    kind = format or _kind_of(path)
    if kind in ("json", "jsonl"):
        table = _json_lines(path, encoding) if kind == "jsonl" else _json_items(path, encoding, items)
    elif kind == "xlsx":
        table = _sheet(path, sheet, header, columns or {})
    else:
        quoted = kind == "csv" if quoting == "auto" else quoting == "minimal"
        table = _separated(path, delimiter or ("," if kind == "csv" else "\t"), quoted, encoding, header)
    mapping = RowMapping.for_table(
        table,
        columns or {},
        label_names=label_names,
        option_separator=option_separator,
        answer_base=answer_base,
    )
    return [mapping.record(row) for row in table.rows]


def _kind_of(path: Path) -> TableFormat:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise CorpusError(path, None, "the suffix names no table format.", "Set `format`: csv, tsv, jsonl, json or xlsx.")


# -- CSV and TSV -------------------------------------------------------------------------------------------------------


def _separated(path: Path, delimiter: str, quoted: bool, encoding: str, header: bool) -> Table:
    parsed = list(_csv_rows(path, read_text(path, encoding), delimiter, quoted))
    if not parsed:
        return Table(path, [])
    (first_line, first), body = parsed[0], parsed[1:] if header else parsed
    names = [name.strip() for name in first] if header else [str(index) for index in range(len(first))]
    rows: list[Row] = []
    for line, values in body:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(names):
            problem = f"row has {len(values)} fields, the first row has {len(names)}."
            cure = "Check the delimiter and the quotation marks (reader options `delimiter`, `quoting`)."
            raise CorpusError(path, line, problem, cure)
        rows.append(Row(len(rows) + 1, line, _cells(names, values)))
    return Table(path, rows, names, first_line if header else None)


def _csv_rows(path: Path, text: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """(line where the row begins, fields); a quoted field may hold line breaks."""
    if not quoted:
        for number, whole in numbered_lines(text):
            if whole:
                yield number, whole.split(delimiter)
        return
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        line = 1
        try:
            for values in reader:
                if values:
                    yield line, values
                line = reader.line_num + 1
        except csv.Error as error:
            # The message names characters of the syntax, never the content of a field.
            cure = "Check the quotation marks in the row that begins here, or set the reader option `quoting: none`."
            raise CorpusError(path, line, f"not a valid row: {error}.", cure) from None


@contextmanager
def _long_fields() -> Iterator[None]:
    """A discharge summary is longer than the csv module's limit of 131,072 characters for a field."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _cells(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """By name, and by position where no column has that name."""
    cells = {str(index): value for index, value in enumerate(values)}
    return cells | {name: value for name, value in zip(names, values, strict=False) if name}


# -- JSON --------------------------------------------------------------------------------------------------------------


def _json_lines(path: Path, encoding: str) -> Table:
    rows: list[Row] = []
    for line, text in numbered_lines(read_text(path, encoding)):
        if text.strip():
            rows.append(_json_row(path, line, len(rows) + 1, _load(path, line, text)))
    return Table(path, rows)


def _json_items(path: Path, encoding: str, items: str | None) -> Table:
    value = _load(path, 1, read_text(path, encoding))
    if items is not None:
        value = cell(Row(0, None, value if isinstance(value, dict) else {}), items)
    if isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
        value = [{"@key": key, **item} for key, item in value.items()]
    if not isinstance(value, list):
        where = "the file" if items is None else f"`items: {items}`"
        problem = f"{where} is neither a list of objects nor an object of objects."
        raise CorpusError(path, None, problem, "Set `items` to the dotted path of the list.")
    return Table(path, [_json_row(path, None, number, item) for number, item in enumerate(value, start=1)])


def _json_row(path: Path, line: int | None, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        place = "" if line is not None else f"item {number}: "
        problem = f"{place}an object is expected."
        raise CorpusError(path, line, problem, 'Each row is {"column": value, …}.')
    return Row(number, line, value)


def _load(path: Path, first_line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise CorpusError(path, line, f"not JSON at column {error.colno}: {error.msg}.", "Repair it.") from None
    except (RecursionError, ValueError):
        raise CorpusError(path, first_line, "JSON nested too deeply, or a number of thousands of digits.") from None


# -- XLSX --------------------------------------------------------------------------------------------------------------


def _sheet(path: Path, name: str | None, header: bool, columns: Mapping[str, str]) -> Table:
    """Read row by row and no further right than the last column used: sheets often declare thousands of empty ones."""
    if not path.is_file():
        raise CorpusError(path, None, "no such file.", "Check the path.")
    positions = [n + 1 for column in columns.values() if (n := whole_number(column)) is not None and n < 16384]
    try:
        names, body = _sheet_values(path, name, header, max(positions, default=0))
    except CorpusError:
        raise
    except Exception as error:  # openpyxl raises whatever its zip and XML parsers do on a damaged file
        problem = f"not an XLSX workbook, or a damaged one ({type(error).__name__})."
        raise CorpusError(path, None, problem, "Old .xls and encrypted files: save as XLSX or CSV.") from error
    rows: list[Row] = []
    for line, values in enumerate(body, start=2 if header else 1):
        if any(value is not None and value != "" for value in values):
            rows.append(Row(len(rows) + 1, line, _cells(names, values)))
    return Table(path, rows, names, 1 if header else None)


def _sheet_values(path: Path, name: str | None, header: bool, width: int) -> tuple[list[str], list[Sequence[Any]]]:
    """Column names (positions without a header) and the values below them, at least `width` columns."""
    book = load_workbook(path, read_only=True, data_only=True)
    try:
        if name is not None and name not in book.sheetnames:
            problem = f"there is no sheet {name!r}. Sheets: {', '.join(book.sheetnames)}."
            raise CorpusError(path, None, problem, "Correct `sheet`.")
        sheet = book[name] if name is not None else book.worksheets[0]
        first = next(sheet.iter_rows(max_row=1, values_only=True), ())
        names = [str(value).strip() if value is not None else "" for value in first]
        while names and not names[-1]:
            names.pop()
        width = max(len(names), width, 1)
        if not header:
            names = [str(index) for index in range(width)]
        return names, list(sheet.iter_rows(min_row=2 if header else 1, max_col=width, values_only=True))
    finally:
        book.close()
