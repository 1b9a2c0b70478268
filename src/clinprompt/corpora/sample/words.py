"""Lexicons whose surfaces are parted for ever: some may be trained on, some are only ever seen in validation or test.

The part of a surface hangs on a hash of its letters, not on the seed, so that a mention held out for the test split of
one task is never a training mention of another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

Split = Literal["train", "validation", "test"]
HELD_OUT_SHARE = 0.4
"""Chance that a mention of a validation or test record is drawn from the surfaces kept for that split."""


def listed(block: str) -> tuple[str, ...]:
    """The comma-separated terms of a block of text, in order, without empty ones."""
    return tuple(term.strip() for line in block.splitlines() for term in line.split(",") if term.strip())


def part_of(surface: str) -> Split:
    """The split a surface is kept for: 7 in 10 train, 1 in 10 validation, 2 in 10 test."""
    bucket = sha256(surface.lower().encode("utf-8")).digest()[0] % 10
    return "train" if bucket < 7 else "validation" if bucket == 7 else "test"


@dataclass(frozen=True)
class Lexicon:
    """The surfaces of one class of words, by the split they are kept for."""

    parts: dict[Split, tuple[str, ...]]

    @classmethod
    def of(cls, surfaces: Iterable[str]) -> Lexicon:
        unique = tuple(dict.fromkeys(surfaces))
        splits: tuple[Split, ...] = ("train", "validation", "test")
        return cls({split: tuple(s for s in unique if part_of(s) == split) for split in splits})

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts.values())

    @property
    def surfaces(self) -> tuple[str, ...]:
        return tuple(surface for part in self.parts.values() for surface in part)
