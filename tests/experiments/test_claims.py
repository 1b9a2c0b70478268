"""Claims: one owner at a time, the dead lose theirs, nobody loses to the slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clinprompt.experiments.claims import Claims


def test_only_one_of_many_takes_a_name(tmp_path: Path) -> None:
    workers = [Claims(tmp_path) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda worker: worker.take(["a", "b"]), workers))
    # Each takes names in one order and gives back what it has on failure, so at most one holds both.
    assert sum(won) <= 1
    for worker in workers:
        worker.release(["a", "b"])
    assert Claims(tmp_path).take(["a", "b"])


def test_all_or_nothing(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take(["b"])
    assert not second.take(["a", "b", "c"])
    assert not second.held
    assert first.take(["a"]) and first.take(["c"])


def test_released_when_work_ends_even_by_an_error(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with pytest.raises(ValueError, match="the work failed"), claims.beating():
        assert claims.take(["a"])
        raise ValueError("the work failed")
    assert Claims(tmp_path).take(["a"])


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from clinprompt.experiments.claims import Claims\n"
        "print(Claims(Path(sys.argv[1])).take(['a']), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == "True"
        assert not Claims(tmp_path).take(["a"])
        process.kill()
    late = Claims(tmp_path)
    assert late.take(["a"])
    assert not Claims(tmp_path).take(["a"])
    late.release(["a"])
    assert not list(tmp_path.iterdir())


def foreign(folder: Path, age: float) -> Path:
    """The claim of a process on another machine whose last sign of life is `age` seconds old."""
    path = folder / "a.0"
    path.write_text(json.dumps({"owner": "elsewhere/1/2", "token": "x"}))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_another_machine_loses_its_claim_when_its_heart_stops(tmp_path: Path) -> None:
    foreign(tmp_path, age=50)
    assert not Claims(tmp_path, lease=60).take(["a"])
    assert Claims(tmp_path, lease=40).take(["a"])


def test_a_claim_without_a_name_counts_as_living_until_its_lease_ends(tmp_path: Path) -> None:
    (tmp_path / "a.0").write_text("")  # killed between creating and writing
    assert not Claims(tmp_path, lease=60).take(["a"])
    os.utime(tmp_path / "a.0", (0, 0))
    assert Claims(tmp_path, lease=60).take(["a"])


def test_heartbeats_keep_a_claim(tmp_path: Path) -> None:
    claims = Claims(tmp_path, lease=0.6)
    with claims.beating():
        assert claims.take(["a"])
        before = (tmp_path / "a.0").stat().st_mtime
        time.sleep(0.5)
        assert (tmp_path / "a.0").stat().st_mtime > before


def test_a_slow_owner_cannot_release_its_successor(tmp_path: Path) -> None:
    slow, fast = Claims(tmp_path, lease=60, owner="elsewhere/1/2"), Claims(tmp_path, lease=60)
    assert slow.take(["a"])
    os.utime(slow.held["a"], (0, 0))
    assert fast.take(["a"])
    slow.release(["a"])
    assert not Claims(tmp_path, lease=60).take(["a"])


def test_a_slow_owner_cannot_release_a_claim_that_was_made_anew(tmp_path: Path) -> None:
    slow, fast, new = Claims(tmp_path, lease=60, owner="elsewhere/1/2"), Claims(tmp_path), Claims(tmp_path)
    assert slow.take(["a"])
    os.utime(slow.held["a"], (0, 0))
    assert fast.take(["a"])
    fast.release(["a"])
    assert new.take(["a"])
    assert new.held["a"].name == "a.0"  # the name that the slow one's claim had
    slow.release(["a"])
    assert not Claims(tmp_path).take(["a"])


def test_a_claimant_that_comes_late_leaves_the_claim_that_was_made_anew(tmp_path: Path) -> None:
    foreign(tmp_path, age=1000)
    quick, new = Claims(tmp_path), Claims(tmp_path)

    class Late(Claims):
        """Between seeing that the claim is dead and taking it over, others take it over, release it, and claim anew."""

        def _create(self, name: str, generation: int) -> bool:
            assert quick.take([name])
            quick.release([name])
            assert new.take([name])
            return super()._create(name, generation)

    assert not Late(tmp_path).take(["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.0"]
    assert not Claims(tmp_path).take(["a"])
    new.release(["a"])
    assert Claims(tmp_path).take(["a"])


def test_the_heart_goes_on_after_a_release_in_the_middle_of_a_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims, beats, twice = Claims(tmp_path, lease=0.12), [], threading.Event()

    def touched(path: Path) -> None:
        beats.append(path)
        if len(beats) == 1:
            raise FileNotFoundError(path)
        twice.set()

    monkeypatch.setattr(os, "utime", touched)
    with claims.beating():
        assert claims.take(["a"])
        assert twice.wait(10)
