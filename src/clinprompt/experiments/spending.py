"""What a training costs, and the note that keeps count of it over interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clinprompt.architecture.network import Architecture
from clinprompt.backbone.flops import body_parameters
from clinprompt.backbone.model import Backbone
from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.store import read_json, write_json

SAVE_EVERY = 5.0
"""Seconds between two notes of what is being spent: what a `kill -9` may lose. Our choice."""


@dataclass(frozen=True)
class Cost:
    """What a row costs: `trainable` numbers, FLOPs by formula, its share of the measured seconds and energy."""

    trainable: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    joules: float | None = None

    def __add__(self, other: Cost) -> Cost:
        both = self.joules is not None and other.joules is not None
        joules = (self.joules or 0.0) + (other.joules or 0.0) if both else None
        return Cost(self.trainable, self.flops + other.flops, self.seconds + other.seconds, joules)


def told_cost(backbone: Backbone, network: Architecture | None) -> Cost:
    """What the search for a network cost by its file: its seconds, and FLOPs by 4·N per token. Nothing without one."""
    if network is None or not network.search:
        return Cost(joules=0.0)
    tokens = float(network.search.get("tokens", 0))
    return Cost(0, 4.0 * body_parameters(backbone) * tokens, float(network.search.get("seconds", 0)), None)


@dataclass
class Spending:
    """Measures what is done inside it: ``with Spending(path) as spent: …``, then `spent.cost` in seconds and joules.

    `note`: a JSON file that keeps the count, also when the work is interrupted; the next time continues from it. It is
    there from the beginning, is written again every few seconds where the work reports `progress`, and says `about`
    besides. None: nothing is kept.
    """

    note: Path | None
    about: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost(joules=0.0)

    def __enter__(self) -> Self:
        found = read_json(self.note) if self.note else None
        if found is not None:
            self.cost = Cost(seconds=found["seconds"], joules=found["joules"])
        else:
            self._write(self.cost)
        self._began, self._meter = time.monotonic(), EnergyMeter()
        self._saved = self._began
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.cost = self._so_far()
        self._write(self.cost)

    def progress(self, shown: Callable[..., None] | None = None) -> Callable[..., None]:
        """A progress callback that keeps the note up to date, and passes on what it is told."""

        def told(*arguments: Any) -> None:
            if time.monotonic() - self._saved >= SAVE_EVERY:
                self._write(self._so_far())
                self._saved = time.monotonic()
            if shown:
                shown(*arguments)

        return told

    def _so_far(self) -> Cost:
        return self.cost + Cost(seconds=time.monotonic() - self._began, joules=self._meter.joules())

    def _write(self, cost: Cost) -> None:
        if self.note:
            write_json(self.note, {**self.about, "seconds": cost.seconds, "joules": cost.joules})
