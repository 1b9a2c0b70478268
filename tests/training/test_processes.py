"""Several processes make the update that one would make; only the first of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clinprompt.prompts.artifact import load_metaprompt
from clinprompt.training.processes import Processes, current_processes
from tests.training.two_processes import learn_tiny

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "run.json",
    "teachers.checkpoint.safetensors",
    "teachers.safetensors",
    "source.checkpoint.safetensors",
    "metaprompt.safetensors",
}


def launch(folder: Path) -> list[dict[str, Any]]:
    """Two CPU processes over loopback. (`accelerate launch --cpu` starts a single one where there is no MPI.)"""
    folder.mkdir()
    own = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {k: v for k, v in os.environ.items() if k not in own}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module"]
    run = subprocess.run(
        [sys.executable, *launcher, "tests.training.two_processes", str(folder)],
        cwd=ROOT,
        env=environment,
        text=True,
        timeout=200,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("report.*.json"))]


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    pair = launch(tmp_path / "two")
    one = learn_tiny(tmp_path / "one", Processes())
    assert [report["count"] for report in pair] == [2, 2]
    for report in pair:
        for name in ("shared", "u", "v", "validation"):
            torch.testing.assert_close(torch.tensor(report[name]), torch.tensor(one[name]), atol=1e-5, rtol=1e-5)
    assert pair[0]["shared"] == pair[1]["shared"]  # bit for bit the same in both processes
    assert set(pair[0]["written"]) >= FILES and pair[1]["written"] == []
    names = [{p.name.split(".")[0] for p in (tmp_path / run).rglob("*.safetensors")} for run in ("one", "two")]
    assert names[0] == names[1] and not list(tmp_path.rglob("*.tmp"))
    assert load_metaprompt(tmp_path / "two" / "metaprompt.safetensors").shared.tolist() == pair[0]["shared"]


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = current_processes()
    assert (processes.rank, processes.count, processes.main) == (0, 1, True)
    gradient = torch.randn(3)
    assert Processes().total(gradient) is gradient
    Processes().wait()
