"""Results with known effects: made-up cells in the format of a benchmark, so that what a report says can be checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clinprompt.experiments.results import Cell, TestSet, Trial
from clinprompt.tasks.definition import TaskType

TARGETS: dict[str, TaskType] = {
    "maccrobat-ner": "ner",
    "e3c": "ner",
    "maccrobat-re": "relation",
    "phee": "relation",
    "medbullets": "qa",
    "headqa": "qa",
    "nli4ct": "nli",
    "scinli": "nli",
    "mts-dialog": "summarization",
    "open-i": "summarization",
}
HEADLINES = {
    "ner": "strict_f1",
    "relation": "strict_f1",
    "qa": "accuracy",
    "nli": "accuracy",
    "summarization": "rougeL",
}
COST = {"zero-shot": 0, "pt": 4096, "mpt": 4368, "mpt-vectors": 272, "lora": 400_000, "full": 6_600_000}


def digest(*parts: object) -> str:
    return hashlib.sha256("/".join(str(p) for p in parts).encode()).hexdigest()[:16]


def stream(*parts: object) -> np.random.Generator:
    return np.random.default_rng(int(digest(*parts), 16))


def records_of(kind: TaskType, skill: float, target: str, n: int, noise: np.random.Generator) -> list[Any]:
    """Per-record results of a method of this skill (0..1): how hard a record is, is the same for every method."""
    hardness = stream("hardness", target).normal(size=n)
    chance = np.clip(1 / (1 + np.exp(hardness - 8 * (skill - 0.5))), 0.01, 0.99)
    if kind in ("ner", "relation"):
        gold = stream("gold", target).integers(1, 6, size=n)
        hit = noise.binomial(gold, chance)
        return [(int(t), int(f), int(g - t)) for t, f, g in zip(hit, noise.poisson(1 - chance), gold, strict=True)]
    if kind == "summarization":
        return [float(x) for x in np.round(noise.beta(1 + 8 * chance, 9 - 8 * chance), 4)]
    return [float(x) for x in noise.random(n) < chance]


def headline_of(values: Sequence[Any]) -> float:
    if isinstance(values[0], tuple):
        tp, fp, fn = (sum(v[i] for v in values) for i in range(3))
        return 100 * 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    return float(100 * sum(values) / len(values))


def cell(
    target: str,
    method: str,
    skill: float,
    *,
    shots: Any = "full",
    draw: int = 0,
    seed: int = 0,
    n: int = 80,
    **changes: Any,
) -> Cell:
    """A made-up cell; equal arguments give an equal cell."""
    kind = changes.pop("type", None) or TARGETS[target]
    values = records_of(kind, skill, target, n, stream("cell", target, method, shots, draw, seed))
    score = round(headline_of(values), 3)
    trains = method not in ("constant", "zero-shot", "in-context")
    rates = (0.01, 0.03, 0.1, 0.3) if trains else ()
    rng = stream("trials", target, method, shots, draw, seed)
    trials = tuple(
        Trial(values={"loop.learning_rate": rate}, score=round(float(rng.random()), 3), on="validation loss")
        for rate in rates
    )
    metrics: dict[str, Any] = {HEADLINES[kind]: (score, score - 3, score + 3)}
    if kind == "nli":
        metrics["macro_f1"] = (score - 1, score - 4, score + 2)
    fields: dict[str, Any] = {
        "id": digest(target, method, shots, draw, seed),
        "suite": "open-clinical",
        "target": target,
        "type": kind,
        "method": method,
        "shots": shots,
        "draw": draw,
        "seed": seed,
        "headline": HEADLINES[kind],
        "metrics": metrics,
        "n": n,
        "n_all": 4 * n,
        "per_example": values,
        "test_set": digest("test set", target, n),
        "errors": errors_of(kind, values),
        "trials": trials,
        "chosen": min(trials, key=lambda t: t.score or 0.0).values if trials else {},
        "trainable": COST.get(method, 4368 if trains else 0),
        "trainable_percent": 100 * COST.get(method, 4368 if trains else 0) / 6_600_000,
        "stored_bytes": 4 * COST.get(method, 4368 if trains else 0),
        "flops": (4e12 if method != "lora" else 6e12) if trains else 0.0,
        "train_seconds": (40.0 if method != "lora" else 60.0) if trains else 0.0,
        "predict_seconds": 5.0,
        "backbone": "embedded",
        "metaprompt": digest("metaprompt", method, seed) if method.startswith("mpt") else "",
        "library": "0.1.0",
        "machine": "two cores",
    }
    return Cell.model_validate(fields | changes)


def errors_of(kind: TaskType, values: Sequence[Any]) -> dict[str, int]:
    if kind in ("ner", "relation"):
        fp, fn = sum(v[1] for v in values), sum(v[2] for v in values)
        found = {"missed": fn, "spurious": fp // 2, "ungrounded": fp - fp // 2, "malformed": 1}
        return found | ({"boundary": 3, "type": 2} if kind == "ner" else {})
    return {"wrong": sum(v < 1 for v in values), "malformed": 0} if kind != "summarization" else {"malformed": 0}


def test_set(target: str, n: int = 80) -> TestSet:
    return TestSet(target=target, digest=digest("test set", target, n), ids=tuple(f"{target}-{i}" for i in range(n)))


test_set.__test__ = False  # type: ignore[attr-defined]  # a maker of lines, no test


def grid(
    skills: Mapping[str, float],
    *,
    targets: Sequence[str] = tuple(TARGETS),
    shots: Sequence[Any] = ("full",),
    draws: Sequence[int] = (0,),
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 80,
    learns: Callable[[Any], float] = lambda k: 0.0,
) -> list[Cell]:
    """Every combination. `learns`: how much skill is gained or lost at k shots. Zero-shot stands once per target."""
    cells = []
    for target in targets:
        level = float(stream("level", target).uniform(-0.1, 0.1))
        for method, skill in skills.items():
            if method == "zero-shot":
                cells.append(cell(target, method, skill + level, shots=0, n=n))
                continue
            for k in shots:
                for draw in draws:
                    for seed in seeds:
                        own = float(stream("run", target, method, k, draw, seed).normal(0, 0.02))
                        at = min(0.98, max(0.02, skill + level + learns(k) + own))
                        cells.append(cell(target, method, at, shots=k, draw=draw, seed=seed, n=n))
    return cells
