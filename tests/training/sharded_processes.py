"""What each of the processes of `test_sharding.py` runs: learn on a tiny model whose layers are split."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from clinprompt.training.learn import learn
from clinprompt.training.processes import current_processes
from clinprompt.training.sharding import held_share, shard
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task
from tests.training.two_processes import SETTINGS


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    processes = current_processes()
    for kind in ("llama", "gpt_oss"):
        backbone = tiny(kind)
        sharded = shard(backbone, processes)
        learned = learn(backbone, [ner_task(), nli_task()], SETTINGS, folder / kind, processes=sharded)
        found = {name: getattr(learned.metaprompt, name).tolist() for name in ("shared", "u", "v")}
        found |= {"validation": learned.source_fit.validation.tolist(), "held": held_share(backbone)}
        (folder / f"{kind}.{processes.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
