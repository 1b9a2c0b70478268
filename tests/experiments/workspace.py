"""A suite of four toy tasks (two sources, two targets) with their files, and a protocol small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clinprompt.experiments.protocol import Protocol, parse_protocol
from clinprompt.experiments.store import Store
from clinprompt.experiments.workbench import Workbench
from tests.cli_workspace import FIND, INFER, find_line, infer_line
from tests.models import tiny

SUITE = """\
name: toys
sources: [find-source.yaml, infer-source.yaml]
targets: [find-target.yaml, infer-target.yaml]
"""
LOOP = {"steps": 3, "batch_size": 2, "evaluate_every": 3, "validation_limit": 4}
PROTOCOL: dict[str, Any] = {
    "methods": ["zero-shot", "pt", "mpt"],
    "shots": [0, 2, "full"],
    "draws": 2,
    "seeds": 1,
    "trials": 2,
    "tuning_runs": 1,
    "limits": {"train": 8, "validation": 4, "test": 4},
    "learn": {
        "prompt_length": 4,
        "limit": 6,
        "validation_records": 2,
        "target_reserve": 16,
        "teacher": {"steps": 2, "batch_size": 2, "evaluate_every": 2},
        "source": {"steps": 2, "batch_size": 4, "evaluate_every": 2},
    },
    "adapt": {"target_reserve": 16, "window": 64, "loop": LOOP},
}


def make(folder: Path) -> Path:
    """Write corpora, tasks and suite; returns the suite's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, definition, line in (("find", FIND, find_line), ("infer", INFER, infer_line)):
        for role in ("source", "target"):
            name = f"{kind}-{role}"
            for split, count in (("train", 16), ("validation", 4), ("test", 6)):
                lines = "".join(line(f"{name}-{split}", i) for i in range(count))
                (folder / f"{name}-{split}.jsonl").write_text(lines)
            files = (
                f"files: {{train: {name}-train.jsonl, validation: {name}-validation.jsonl, test: {name}-test.jsonl}}"
            )
            kept = [row for row in definition.splitlines() if not row.startswith(("files:", "name:"))]
            (folder / f"{name}.yaml").write_text("\n".join([f"name: {name}", *kept, files]) + "\n")
    (folder / "suite.yaml").write_text(SUITE)
    return folder / "suite.yaml"


def protocol(suite: Path, **changes: Any) -> Protocol:
    """The small protocol with changes."""
    return parse_protocol({**PROTOCOL, "suite": str(suite), **changes})


def bench(folder: Path, **changes: Any) -> Workbench:
    """A workbench of the tiny backbone; its suite lies in `folder`, its work folder too."""
    suite = folder / "data" / "suite.yaml"
    if not suite.exists():
        make(folder / "data")
    return Workbench(protocol(suite, **changes), tiny(), Store(folder / "work"))
