"""From predictions and costs to the line of a results file: scores, what each record contributes, errors, machine."""

from __future__ import annotations

import math
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from clinprompt.experiments.results import TestSet
from clinprompt.records import Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import contributions, error_analysis, headline, score_of, sheet_of
from clinprompt.tasks.scoring import Sheet
from clinprompt.training.identity import digest_of

EXAMPLES = 5
"""Record ids kept per kind of error, for a person to look at."""


def scored(task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The fields of a cell's line that depend on its predictions. No text of a record is in them."""
    sheet = sheet_of(task, gold, predictions)
    kinds = [_errors(task, record, found) for record, found in zip(gold, predictions, strict=True)]
    totals: Counter[str] = Counter()
    for kind in kinds:
        totals.update(kind)
    if task.type == "relation":
        totals.update(_relation_errors(sheet))
    return {
        "headline": headline(task),
        "metrics": {name: tuple(map(_plain, asdict(s).values())) for name, s in score_of(task, sheet).items()},
        "n": len(gold),
        "per_example": contributions(task, sheet),
        "test_set": test_set(task.name, gold).digest,
        "errors": dict(totals),
        "error_records": {
            name: tuple(r.id for r, kind in zip(gold, kinds, strict=True) if kind.get(name))[:EXAMPLES]
            for name in totals
            if name != "correct" and any(kind.get(name) for kind in kinds)
        },
    }


def test_set(target: str, records: Sequence[Record]) -> TestSet:
    """Which records the lines of a target are about, in order."""
    ids = tuple(record.id for record in records)
    return TestSet(target=target, digest=digest_of([target, ids]), ids=ids)


def _errors(task: TaskDefinition, record: Record, prediction: Prediction) -> dict[str, int]:
    found = {
        "ungrounded": len(prediction.ungrounded),
        "malformed": len(prediction.malformed),
        "omitted": int(prediction.omitted > 0),
    }
    if task.type == "ner":
        found |= asdict(error_analysis([record], [prediction], list(task.labels)))
    return found


def _relation_errors(sheet: Sheet) -> dict[str, int]:
    """Relations have no borders to be wrong: right, missed, or spurious (ungrounded ones counted apart)."""
    hit, predicted, gold = (int(sheet.columns[f"strict:{part}"].sum()) for part in ("hit", "predicted", "gold"))
    invented = int(sheet.columns["ungrounded:count"].sum())
    return {"correct": hit, "missed": gold - hit, "spurious": predicted - hit - invented}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


@lru_cache(maxsize=1)
def machine() -> str:
    """Processor (and accelerator), threads and PyTorch of this process: what exact repetition needs."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([_processor(), *devices, f"torch {torch.__version__}", platform.system()])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()
