"""Reading past errors: all records that can be read, and an error for each place that cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clinprompt.corpora.formats import read_corpus
from clinprompt.corpora.source import files_in, ignoring_lines
from clinprompt.errors import CorpusError
from clinprompt.records import Record

_DOCUMENT_FORMATS = frozenset({"brat", "n2c2-2018", "n2c2-2022-sdoh"})


def read_tolerantly(
    format: str,
    paths: Sequence[Path],
    columns: Mapping[str, str] | None = None,
    reader_options: Mapping[str, Any] | None = None,
    *,
    limit: int = 50,
) -> tuple[list[Record], list[CorpusError]]:
    """`read_corpus`, and where that fails, the same document by document and line by line.

    A line with an error is left out and reading starts again, up to `limit` errors. What has no lines (XML, XLSX, a
    missing file) gives one error and no records. Record ids may differ from those of `read_corpus` when there are
    errors. Raises TaskError as `read_corpus` does.
    """
    try:
        return read_corpus(format, paths, columns, reader_options), []
    except CorpusError:
        pass  # the first error only; the careful reading below finds it again, with the others
    records: list[Record] = []
    errors: list[CorpusError] = []
    for path in _documents(format, paths):
        if len(errors) >= limit:
            break
        found, failed = _read_around_errors(format, path, columns, reader_options, limit - len(errors))
        records += found
        errors += failed
    return records, errors


def _documents(format: str, paths: Iterable[Path]) -> Iterator[Path]:
    """Folders of document pairs one pair at a time, so that one bad document does not hide the others."""
    for path in paths:
        names = files_in(path, ".ann", ".txt") if format in _DOCUMENT_FORMATS and path.is_dir() else []
        yield from dict.fromkeys(name.with_suffix(".ann") for name in names) or [path]


def _read_around_errors(
    format: str, path: Path, columns: Mapping[str, str] | None, options: Mapping[str, Any] | None, allowed: int
) -> tuple[list[Record], list[CorpusError]]:
    """An error that only says that a line left out is missing (a relation of a mention) is not reported again."""
    errors: list[CorpusError] = []
    ignored: dict[Path, set[int]] = defaultdict(set)
    names: set[str] = set()
    while True:
        try:
            with ignoring_lines(ignored):
                return read_corpus(format, [path], columns, options), errors
        except CorpusError as error:
            if not any(repr(name) in error.problem for name in names):
                errors.append(error)
            stuck = error.line is None or error.line in ignored[error.path] or not error.path.is_file()
            if stuck or len(errors) >= allowed:
                return [], errors
            assert error.line is not None
            ignored[error.path].add(error.line)
            names.add(_first_column(error.path, error.line))


def _first_column(path: Path, line: int) -> str:
    """What a line calls its annotation (``T5`` in BRAT)."""
    rows = path.read_bytes().split(b"\n")
    row = rows[line - 1] if line <= len(rows) else b""
    return row.split(b"\t")[0].decode("utf-8", "replace")
