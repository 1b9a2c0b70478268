"""Splits that hang on a hash of what may not be separated, never on order or chance.

The rule of the suite: 70/10/20 by document (patient, trial, report) where a corpus has no split; one part in eight of
the training groups where it has a test but no validation split (the same 70:10).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

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


def sample(records: list[Record], limit: int | None) -> list[Record]:
    """At most `limit` records, in their order: those whose ids hash lowest, so that every run takes the same ones."""
    if limit is None or len(records) <= limit:
        return records
    chosen = sorted(range(len(records)), key=lambda index: (position(records[index].id), index))[:limit]
    return [records[index] for index in sorted(chosen)]


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
