"""What is computed once: a cell is (method, target, shots, draw, seed); cells that train together form a group.

An id is a hash of everything that decides the result: the backbone, the records, the resolved settings of all trials,
how the trial is chosen, and how the metaprompt is learned. Which rows shared a training is not part of it: a row ends
where it would have ended alone, to rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clinprompt.corpora.jsonl import record_to_dict
from clinprompt.experiments.protocol import Shots
from clinprompt.records import Record

FORMAT = 1
"""Version of what a cell computes; raised when the same settings would give another result."""

Run = tuple[int, int]
"""(draw, seed)"""


@dataclass(frozen=True, slots=True)
class CellPlan:
    """One result to be computed, with its id."""

    method: str
    target: str
    shots: Shots
    draw: int
    seed: int
    id: str

    @property
    def run(self) -> Run:
        return self.draw, self.seed


@dataclass(frozen=True, slots=True)
class Group:
    """The cells of one (method, targets, shots): their trials are judged together and one is chosen for all.

    `targets` is one task, or all tasks of a suite where they share one trained P*. `pool` are the runs that judge the
    trials; `selection` is the identity of that choice. Nothing is chosen where there is nothing to try.

    `judges`: source tasks on which the trials are tried instead of the targets, in a choice (`chooser`) that groups of
    all targets share.
    """

    method: str
    targets: tuple[str, ...]
    shots: Shots
    pool: tuple[Run, ...]
    selection: str
    cells: tuple[CellPlan, ...]
    judges: tuple[str, ...] = ()
    chooser: str = ""

    @property
    def judged_on(self) -> tuple[str, ...]:
        """The tasks whose validation records judge the trials."""
        return self.judges or self.targets

    @property
    def choice(self) -> str:
        """Identity under which the choice is stored."""
        return self.chooser or self.selection

    @property
    def name(self) -> str:
        where = self.targets[0] if len(self.targets) == 1 else f"{len(self.targets)} targets"
        return f"{self.method} {where} {self.shots}"


@dataclass(frozen=True, slots=True)
class Unit:
    """Work for one worker: groups of one method and number of shots whose rows train together."""

    groups: tuple[Group, ...]

    @property
    def cells(self) -> tuple[CellPlan, ...]:
        return tuple(cell for group in self.groups for cell in group.cells)


def records_digest(records: Sequence[Record]) -> str:
    """Identity of records with their gold, without holding any of them."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record_to_dict(record), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def packed(groups: Sequence[Group], trials: Mapping[str, int], rows: int) -> list[Unit]:
    """Groups into units of at most `rows` rows: those of one method and number of shots follow each other.

    A group is never cut here (a training is, by `rows`); `trials` gives the number of trials per method.
    """
    units: list[Unit] = []
    current: list[Group] = []
    filled = 0
    for group in groups:
        size = rows_of(group, trials[group.method])
        fits = current and filled + size <= rows and _trains_with(current[0], group)
        if current and not fits:
            units.append(Unit(tuple(current)))
            current, filled = [], 0
        current.append(group)
        filled += size
    return [*units, Unit(tuple(current))] if current else units


def rows_of(group: Group, trials: int) -> int:
    """Rows a group trains in its first training: every trial on every run of the pool."""
    return max(1, trials * len(group.pool)) * len(group.targets)


def _trains_with(first: Group, other: Group) -> bool:
    return (first.method, first.shots) == (other.method, other.shots) and len(first.targets) == len(other.targets) == 1
