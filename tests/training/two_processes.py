"""What each of the processes of `test_processes.py` runs: learn on a tiny model, and tell what this process did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from clinprompt.training.learn import learn
from clinprompt.training.processes import Processes, current_processes
from clinprompt.training.settings import LearnSettings, LoopSettings
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

LOOP = LoopSettings(steps=6, batch_size=4, evaluate_every=3, checkpoint_every=2, micro_tokens=256, patience=1)
SETTINGS = LearnSettings(
    prompt_length=5, limit=12, validation_records=4, target_reserve=32, teacher=LOOP, source=LOOP, layers=(0, -1)
)


def learn_tiny(folder: Path, processes: Processes) -> dict[str, Any]:
    """Values and losses of one small `learn`."""
    learned = learn(tiny(), [ner_task(), nli_task()], SETTINGS, folder, processes=processes)
    found = {name: getattr(learned.metaprompt, name).tolist() for name in ("shared", "u", "v")}
    return found | {"validation": learned.source_fit.validation.tolist()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    written: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        written.append(Path(target).name)
        return replace(self, target)

    Path.replace = noted  # type: ignore[method-assign, assignment]
    processes = current_processes()
    report = learn_tiny(folder, processes) | {"count": processes.count, "written": written}
    (folder / f"report.{processes.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
