"""What a training costs, and the note that keeps count of it over interruptions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.store import read_json, write_json


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


@dataclass
class Spending:
    """Measures what is done inside it: ``with Spending(path) as spent: …``, then `spent.cost` in seconds and joules.

    `note`: a JSON file that keeps the count, also when the work is interrupted; the next time continues from it. It is
    there from the beginning and says `about` besides. None: nothing is kept.
    """

    note: Path | None
    about: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost(joules=0.0)

    def __enter__(self) -> Self:
        found = read_json(self.note) if self.note else None
        if found is not None:
            self.cost = Cost(seconds=found["seconds"], joules=found["joules"])
        else:
            self._write()
        self._began, self._meter = time.monotonic(), EnergyMeter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.cost += Cost(seconds=time.monotonic() - self._began, joules=self._meter.joules())
        self._write()

    def _write(self) -> None:
        if self.note:
            write_json(self.note, {**self.about, "seconds": self.cost.seconds, "joules": self.cost.joules})
