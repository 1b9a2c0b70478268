"""Formats by name: what `format:` in a task file may say, and what each reader accepts besides."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from clinprompt.corpora.bioc_format import read_bioc
from clinprompt.corpora.brat import read_brat
from clinprompt.corpora.clinical_pairs import read_mednli, read_mimic_cxr
from clinprompt.corpora.conll import read_conll
from clinprompt.corpora.i2b2_2010 import read_i2b2_2010
from clinprompt.corpora.i2b2_xml import read_i2b2_2012, read_i2b2_2014
from clinprompt.corpora.jsonl import read_records
from clinprompt.corpora.n2c2 import read_n2c2_2018, read_n2c2_2022_sdoh
from clinprompt.corpora.pubtator import read_pubtator
from clinprompt.corpora.tabular import read_tabular
from clinprompt.errors import CorpusError, TaskError, unknown_name
from clinprompt.records import Record


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader function; `columns`: it takes a column mapping; `fixed`: arguments that the format's name decides."""

    function: Callable[..., list[Record]]
    columns: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keyword arguments that a task file may set under `reader:`."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in self.fixed)


READERS: dict[str, Reader] = {
    "brat": Reader(read_brat),
    "bioc": Reader(read_bioc),
    "pubtator": Reader(read_pubtator),
    "conll": Reader(read_conll),
    "csv": Reader(read_tabular, columns=True, fixed={"format": "csv"}),
    "tsv": Reader(read_tabular, columns=True, fixed={"format": "tsv"}),
    "jsonl": Reader(read_tabular, columns=True, fixed={"format": "jsonl"}),
    "json": Reader(read_tabular, columns=True, fixed={"format": "json"}),
    "xlsx": Reader(read_tabular, columns=True, fixed={"format": "xlsx"}),
    "records": Reader(read_records),
    "i2b2-2010": Reader(read_i2b2_2010),
    "i2b2-2012": Reader(read_i2b2_2012),
    "i2b2-2014": Reader(read_i2b2_2014),
    "n2c2-2018": Reader(read_n2c2_2018),
    "n2c2-2022-sdoh": Reader(read_n2c2_2022_sdoh),
    "mednli": Reader(read_mednli),
    "mimic-cxr": Reader(read_mimic_cxr),
}


def reader_named(name: str) -> Reader:
    """The reader of a format. Raises TaskError listing the formats if there is none of that name."""
    if name not in READERS:
        raise TaskError(unknown_name("format", name, list(READERS)))
    return READERS[name]


def read_corpus(
    format: str,
    paths: Sequence[Path],
    columns: Mapping[str, str] | None = None,
    reader_options: Mapping[str, Any] | None = None,
) -> list[Record]:
    """The records of all paths, in order.

    Ids are unique: within a path, an id that occurs twice is an error; ids that several paths share are preceded by
    the path's number (``2:id``). Raises TaskError for an unknown format, an option the reader does not have or cannot
    take, or columns where the format has none; CorpusError for what a file holds.
    """
    reader = reader_named(format)
    if columns and not reader.columns:
        tables = ", ".join(name for name, known in READERS.items() if known.columns)
        raise TaskError(f"format {format!r} has no columns; remove `columns` (formats with columns: {tables}).")
    call = partial(reader.function, **reader.fixed, **_checked_options(format, reader, reader_options or {}))
    if reader.columns:
        call = partial(call, columns=columns or None)
    return _with_unique_ids([(Path(path), call(Path(path))) for path in paths])


def _checked_options(format: str, reader: Reader, options: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(reader.function)
    checked = {}
    for name, value in options.items():
        if name not in reader.options:
            raise TaskError(f"format {format!r}: " + unknown_name("reader option", name, list(reader.options)))
        try:
            checked[name] = TypeAdapter(hints[name], config=ConfigDict(strict=False)).validate_python(value)
        except ValidationError as error:
            raise TaskError(f"format {format!r}: reader option `{name}`: {error.errors()[0]['msg']}.") from None
    return checked


def _with_unique_ids(batches: Sequence[tuple[Path, list[Record]]]) -> list[Record]:
    seen: set[str] = set()
    shared = False
    for path, records in batches:
        own: set[str] = set()
        for record in records:
            if record.id in own:
                cure = "Map `id` to a column with unique values, or leave it out."
                raise CorpusError(path, None, f"record id {record.id!r} occurs twice.", cure)
            own.add(record.id)
        shared = shared or bool(seen & own)
        seen |= own
    if not shared:
        return [record for _, records in batches for record in records]
    return [
        replace(record, id=f"{number}:{record.id}")
        for number, (_, records) in enumerate(batches, start=1)
        for record in records
    ]
