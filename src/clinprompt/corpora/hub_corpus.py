"""A hub data set as records per split, with the published number of rows checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clinprompt.corpora.general.row import Converter, HubRow
from clinprompt.corpora.hub_files import HubPart, HubSource, part_files, read_rows
from clinprompt.corpora.splits import Splits, carve_validation
from clinprompt.errors import CorpusError
from clinprompt.records import Record


def missing_parts(source: HubSource, folder: Path) -> list[str]:
    """The parts without any local file."""
    return [part.path for part in source.parts if not part_files(folder, part)]


def load_hub(source: HubSource, folder: Path, converter: Converter) -> Splits:
    """All splits from a local copy in which no part is missing. Validation is carved from training where the source has
    none. Raises CorpusError for a damaged file or another number of rows than published."""
    splits: Splits = {"train": [], "validation": [], "test": []}
    for part in source.parts:
        splits[part.split] += _part(part, folder, converter)
    if source.carves:
        return carve_validation(splits["train"], splits["test"])
    return splits


def _part(part: HubPart, folder: Path, converter: Converter) -> list[Record]:
    records: list[Record] = []
    name = part.path.rpartition("/")[2]  # records of different parts never share an id
    for path in part_files(folder, part):
        for values in read_rows(path, converter.columns):
            number = len(records) + 1
            record = converter.record(HubRow(path, number, f"{name}:{number}", values))
            records.append(replace(record, meta={**record.meta, "part": part.part}) if part.part else record)
    check_rows(part, folder, len(records))
    return records


def check_rows(part: HubPart, folder: Path, found: int) -> None:
    """Raise CorpusError if a part has another number of rows than its documentation gives."""
    if found != part.rows:
        raise CorpusError(
            folder / part.path,
            None,
            f"{found:,} rows, but the data set's documentation gives {part.rows:,}.",
            "A shard is missing, or this is another version of the data set: download the files again.",
        )
