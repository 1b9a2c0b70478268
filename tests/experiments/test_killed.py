"""Workers that die in the middle: the results are complete, and no finished cell is computed again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clinprompt.experiments.results import read_results
from clinprompt.experiments.store import ResultsFile
from clinprompt.experiments.sweep import Setup, Sweep
from tests.experiments.sweeper import CHANGES
from tests.experiments.workspace import bench, make, protocol
from tests.models import byte_tokenizer, tiny

ROOT = Path(__file__).parents[2]


def start(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.experiments.sweeper", str(folder), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def written(folder: Path) -> dict[str, int]:
    """Finished cells by name, with the file that was linked into place once."""
    return {path.name: path.stat().st_ino for path in (folder / "work" / "cells").glob("*.json")}


def test_killed_and_run_again(tmp_path: Path) -> None:
    bench(tmp_path)  # writes the corpora
    out = tmp_path / "r.jsonl"
    with start(tmp_path, out) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line.split()[0]) >= 4:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    kept = written(tmp_path)
    assert kept
    total = Sweep(bench(tmp_path, **CHANGES), ResultsFile(out), 32).total
    assert 0 < len(kept) < total
    with start(tmp_path, out) as process:
        process.communicate(timeout=280)
    assert process.returncode == 0
    assert kept.items() <= written(tmp_path).items()
    lines = read_results(out)
    assert len(lines.cells) == len({cell.id for cell in lines.cells}) == total
    assert {cell.key for cell in lines.cells} == lines.planned


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path) -> None:
    bench(tmp_path)
    out = tmp_path / "r.jsonl"
    with start(tmp_path, out) as one, start(tmp_path, out) as two:
        one.communicate(timeout=280)
        two.communicate(timeout=280)
    assert one.returncode == two.returncode == 0
    lines = read_results(out)
    assert len(lines.cells) == len({cell.id for cell in lines.cells}) == len(lines.planned)
    assert not lines.contradictions


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_worker_killed_on_a_ray_cluster(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'clinprompt[ray]'")
    from clinprompt.experiments.on_ray import OnRay

    suite = make(tmp_path / "data")
    backbone = tiny()
    backbone.model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    setup = Setup(
        protocol=protocol(suite, **CHANGES, draws=4).model_dump(mode="json"),
        backbone={"name": str(tmp_path / "model")},
        work=tmp_path / "work",
        rows=8,
        threads=1,
    )
    _cluster(ray)
    try:
        sweep = Sweep(setup.bench(), ResultsFile(tmp_path / "r.jsonl"), setup.rows)
        killed: list[int] = []
        executor = OnRay(setup, workers=2)
        executor.tick = lambda: _kill_one(ray, tmp_path / "work", killed)
        sweep.run(executor)
    finally:
        ray.shutdown()
    assert killed, "no worker was killed: the test says nothing"
    lines = read_results(tmp_path / "r.jsonl")
    assert {cell.key for cell in lines.cells} == lines.planned
    assert len(lines.cells) == sweep.total == len({cell.id for cell in lines.cells})


def _cluster(ray: Any) -> None:
    """A cluster of two processors here. Ray gives itself half a minute to start, which a busy machine may miss."""
    for attempt in range(5):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception:  # Ray raises a bare Exception
            ray.shutdown()
            if attempt == 4:
                raise


def _kill_one(ray: Any, work: Path, killed: list[int]) -> None:
    """Kill -9 the process that holds a claim, once."""
    claims = sorted((work / "claims").glob("*"))
    if killed or not claims:
        return
    import json

    try:
        process = int(json.loads(claims[0].read_text())["owner"].split("/")[1])
    except (FileNotFoundError, ValueError):
        return
    if process != os.getpid():
        os.kill(process, signal.SIGKILL)
        killed.append(process)
