"""Splits that hang on a hash of what may not be separated, never on order or chance.

The rule of the suite: 70/10/20 by document (patient, trial, report) where a corpus has no split; one part in eight of
the training groups where it has a test but no validation split (the same 70:10).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from clinprompt.errors import CorpusError
from clinprompt.records import Record

Splits = dict[str, list[Record]]

TEST, VALIDATION = 0.2, 0.1


def position(group: str) -> float:
    """A number in [0, 1) that depends on nothing but the group's name: the first 8 bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def text_group(text: str) -> str:
    """A group for records without a document id: equal for texts that differ in case, spacing or punctuation only."""
    letters = "".join(c for c in text.casefold() if c.isalnum())
    return hashlib.sha256(letters.encode()).hexdigest()[:16]


def by_hash(records: Iterable[Record]) -> Splits:
    """70/10/20 by group; a record without group is its own."""
    splits: Splits = {"train": [], "validation": [], "test": []}
    for record in records:
        where = position(record.group or record.id)
        split = "test" if where < TEST else "validation" if where < TEST + VALIDATION else "train"
        splits[split].append(record)
    return splits


def carve_validation(train: Iterable[Record], test: list[Record]) -> Splits:
    """Official training and test, with every eighth group (by hash) of training set aside for validation."""
    splits: Splits = {"train": [], "validation": [], "test": test}
    for record in train:
        share = VALIDATION / (1 - TEST)
        splits["validation" if position(record.group or record.id) < share else "train"].append(record)
    return splits


def unique_ids(path: Path, records: list[Record]) -> list[Record]:
    """The records, if no two share an id; CorpusError else."""
    seen: dict[str, int] = {}
    for index, record in enumerate(records):
        if seen.setdefault(record.id, index) != index:
            raise CorpusError(path, None, f"record id {record.id!r} appears twice.", "The file is not the pinned one.")
    return records


def required(path: Path, row: Mapping[str, object], key: str, line: int | None = None) -> str:
    """The text under `key`, stripped; CorpusError if it is missing or no text."""
    value = row.get(key)
    if not isinstance(value, str):
        raise CorpusError(path, line, f"no text under {key!r}.", "The file is not the one the catalog pins.")
    return value.strip()
