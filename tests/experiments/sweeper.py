"""`python -m tests.experiments.sweeper FOLDER OUT`: a sweep in a process of its own that tests can kill."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from clinprompt.experiments.claims import Claims
from clinprompt.experiments.store import ResultsFile
from clinprompt.experiments.sweep import Local, Sweep
from tests.experiments.workspace import bench

CHANGES: dict[str, Any] = {"methods": ["zero-shot", "pt"], "shots": [0, 2, "full"]}


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    workbench = bench(folder, **CHANGES)
    sweep = Sweep(workbench, ResultsFile(out), 32)

    def told(done: int, total: int) -> None:
        print(done, total, flush=True)
        time.sleep(0.1)  # so that a test can hit the middle

    sweep.told = told
    sweep.run(Local(workbench, Claims(workbench.store.claims), 32))


if __name__ == "__main__":
    main()
