"""What a training costs is counted over interruptions, also those that let nothing be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clinprompt.experiments import metaprompts, spending
from clinprompt.experiments.metaprompts import StageClock
from clinprompt.experiments.spending import Spending
from clinprompt.experiments.store import read_json


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still unless the test moves it: `now`."""
    made = SimpleNamespace(now=100.0)
    for module in (spending, metaprompts):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def seconds(path: Path) -> Any:
    found = read_json(path)
    assert found is not None
    return found["seconds"]


def test_the_note_follows_the_work(tmp_path: Path, clock: SimpleNamespace) -> None:
    note, shown = tmp_path / "note.json", []
    with Spending(note, {"rows": [1]}) as spent:
        told = spent.progress(lambda *what: shown.append(what))
        for step in range(4):
            clock.now += 2
            told(step, 4, 0.5)
        # After 2, 4, 6 and 8 seconds; it is written every five at most. Whoever is killed now has spent six.
        assert seconds(note) == 6
    assert seconds(note) == spent.cost.seconds == 8
    assert shown == [(step, 4, 0.5) for step in range(4)]
    with Spending(note) as again:
        clock.now += 5
        again.progress()(0, 1, 0.5)
        assert seconds(note) == 13
        clock.now += 1
    assert again.cost.seconds == 14


def test_what_a_killed_process_had_spent_is_not_lost(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, time; from pathlib import Path; from clinprompt.experiments import spending\n"
        "spending.SAVE_EVERY = 0.05\n"
        "with spending.Spending(Path(sys.argv[1])) as spent:\n"
        "    time.sleep(0.1); spent.progress()(1, 2, 0.5); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "note.json")], timeout=60, check=False)
    assert done.returncode == -9
    assert seconds(tmp_path / "note.json") >= 0.1


def test_the_clock_of_a_metaprompt_is_written_while_it_is_learned(tmp_path: Path, clock: SimpleNamespace) -> None:
    own, shared = tmp_path / "own.json", tmp_path / "shared.json"
    stages = StageClock(own, shared)
    for stage in ("teachers", "teachers", "metaprompt"):
        clock.now += 3
        stages(stage, 1, 2, 0.5)
    assert (seconds(shared), seconds(own)) == ({"teachers": 6}, {})  # the first write: at six seconds
    clock.now += 3
    stages("metaprompt", 2, 2, 0.5)
    assert seconds(own) == {"metaprompt": 6}
    assert StageClock(own, shared).seconds == 12


def test_teachers_are_handed_on_when_they_are_noted(tmp_path: Path, clock: SimpleNamespace) -> None:
    own, shared, seen = tmp_path / "own.json", tmp_path / "shared.json", []
    stages = StageClock(own, shared, taught=lambda: seen.append(seconds(shared)))
    for stage in ("teachers", "teacher states", "metaprompt", "metaprompt"):
        clock.now += 1
        stages(stage, 1, 1, 0.5)
    assert seen == [{"teachers": 1, "teacher states": 1}]
