"""Giving work out, with a stand-in for Ray: what its scheduler does is tested in test_killed.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clinprompt.experiments import on_ray
from clinprompt.experiments.cells import Unit
from clinprompt.experiments.on_ray import OnRay
from clinprompt.experiments.sweep import WAIT, Setup


class Actor:
    """A worker whose outcome is there as soon as it is asked for."""

    def __init__(self, do: Callable[[Unit], bool | str]) -> None:
        self.do = SimpleNamespace(remote=lambda piece: (object(), do(piece)))


def test_work_that_others_hold_is_asked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    until = {"free": 0.0, "held": 10.0, "also held": 5.0}  # seconds that others hold it
    units = [Unit(()) for _ in until]
    names = {id(unit): name for unit, name in zip(units, until, strict=True)}
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(on_ray, "time", clock)
    asked: list[tuple[float, str]] = []
    finished: list[str] = []

    def do(piece: Unit) -> bool:
        asked.append((clock.now, names[id(piece)]))
        assert len(asked) < 50, "asked without a pause"
        return bool(clock.now >= until[names[id(piece)]])

    ray: Any = SimpleNamespace(wait=lambda going, **_: (going[:1], going[1:]), get=lambda reference: reference[1])
    executor = OnRay(Setup({}, {}, Path(), 1))
    executor._actors = [Actor(do), Actor(do)]
    executor._give_out(ray, list(units), lambda unit: finished.append(names[id(unit)]))
    assert finished == ["free", "also held", "held"]
    for name, end in until.items():
        times = [now for now, other in asked if other == name]
        assert times == [WAIT * i for i in range(len(times))]
        assert end <= times[-1] < end + WAIT
