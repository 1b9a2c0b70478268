"""A backbone whose layers are split over two processes learns what one whole backbone learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clinprompt.errors import TrainingError
from clinprompt.training.learn import learn
from clinprompt.training.processes import Processes
from clinprompt.training.sharding import shard
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task
from tests.training.two_processes import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


def test_sharded_equals_whole(tmp_path: Path) -> None:
    own = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {k: v for k, v in os.environ.items() if k not in own}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module"]
    command = [sys.executable, *launcher, "tests.training.sharded_processes", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, env=environment, text=True, timeout=250, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    for kind in ("llama", "gpt_oss"):
        whole = learn(tiny(kind), [ner_task(), nli_task()], SETTINGS, tmp_path / f"{kind}-whole")
        for rank in (0, 1):
            found = json.loads((tmp_path / f"{kind}.{rank}.json").read_text())
            for name in ("shared", "u", "v"):
                expected = getattr(whole.metaprompt, name)
                torch.testing.assert_close(torch.tensor(found[name]), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                torch.tensor(found["validation"]), whole.source_fit.validation, atol=1e-5, rtol=1e-5
            )
            assert found["held"] < 0.8, "embedding and head are whole, the layers are halved"


def test_every_process_makes_equally_many_passes() -> None:
    for parts in ([], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5, 6, 7]):
        shares = [Processes(rank, 3, sharded=True).own(parts) for rank in range(3)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(part for share in shares for part, counted in share if counted) == parts
        alone = [Processes(rank, 3).own(parts) for rank in range(3)]
        assert sorted(part for share in alone for part, _ in share) == parts


def test_one_process_cannot_be_sharded() -> None:
    with pytest.raises(TrainingError, match="several processes"):
        shard(tiny(), Processes())
