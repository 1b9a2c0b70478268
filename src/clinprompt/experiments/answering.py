"""Answering the test records of a target, for several cells in shared batches."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clinprompt.evaluation.answerer import (
    Answerer,
    answers_together,
    in_context,
    of_task,
    one_answer,
    zero_shot,
)
from clinprompt.experiments.cells import CellPlan
from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.protocol import CONSTANT, ZERO_SHOT
from clinprompt.experiments.trainings import Progress, Row, Trained
from clinprompt.experiments.workbench import Workbench
from clinprompt.tasks.codec import Prediction
from clinprompt.training.adapt import Plan, training_records


@dataclass(frozen=True)
class Answers:
    """What a cell says about the test records, and its share of what answering cost. `company`: the rows whose answers
    shared batches with it, itself among them; empty if it was alone."""

    predictions: Sequence[Prediction]
    seconds: float
    joules: float | None
    company: tuple[Row, ...] = ()
    in_context: dict[str, float | int] | None = None

    def noted(self) -> dict[str, Any]:
        """What of it belongs into a line's settings."""
        found: dict[str, Any] = {"in_context": self.in_context} if self.in_context else {}
        return found | ({"answered_with": [row.as_list() for row in self.company]} if self.company else {})


def in_company(trained: Sequence[Trained], targets: Sequence[str]) -> list[list[int]]:
    """Which of these rows are answered together: soft prompts of one target that come from one training (so that the
    trainings a line names are enough to compute it again)."""
    parts: dict[Any, list[int]] = {}
    for index, (one, target) in enumerate(zip(trained, targets, strict=True)):
        key = index if one.file.is_adapter else (target, one.rows)
        parts.setdefault(key, []).append(index)
    return list(parts.values())


def answer_cells(
    bench: Workbench,
    cells: Sequence[CellPlan],
    trained: Sequence[Trained | None],
    rows: Sequence[Row],
    progress: Progress | None = None,
) -> list[Answers]:
    """Answer the test records of one target, for several cells in shared batches; `rows` are those of the cells."""
    if cells[0].method == CONSTANT:
        return [_one_answer(bench, cell) for cell in cells]
    target, shown = cells[0].target, progress
    gold = bench.test_records(target)
    answerers = [_answerer(bench, cell, one) for cell, one in zip(cells, trained, strict=True)]
    told = (lambda done, total: shown(f"test of {target}", done, total, math.nan)) if shown else None
    began, meter = time.monotonic(), EnergyMeter()
    found = answers_together(answerers, gold, told)
    seconds, joules = (time.monotonic() - began) / len(cells), meter.joules()
    shown_examples = answerers[0].in_context
    company = tuple(rows) if len(cells) > 1 else ()
    return [
        Answers(
            predictions,
            seconds,
            None if joules is None else joules / len(cells),
            company,
            shown_examples.summary() if shown_examples else None,
        )
        for predictions in found
    ]


def _one_answer(bench: Workbench, cell: CellPlan) -> Answers:
    """The same answer to every question: the best one on the records that others train on."""
    settings = bench.settings(cell.method, cell.shots, 0, cell.draw, cell.seed)
    data, began = bench.target(cell.target), time.monotonic()
    records = training_records(Plan(bench.trainee(cell.target), settings))
    who = one_answer(bench.backbone, data.task, records, reserve=settings.target_reserve, window=settings.window)
    return Answers(who.answers(bench.test_records(cell.target)), time.monotonic() - began, None)


def _answerer(bench: Workbench, cell: CellPlan, trained: Trained | None) -> Answerer:
    if trained is None:
        return untrained(bench, cell)
    known = of_task(bench.backbone, trained.file, bench.target(cell.target).task)
    return replace(known, limit=bench.answer_limit(cell.target))


def untrained(bench: Workbench, cell: CellPlan) -> Answerer:
    """The bare instruction, or the examples of an in-context cell before every question."""
    limit, data = bench.answer_limit(cell.target), bench.target(cell.target)
    settings = bench.settings(cell.method, cell.shots, 0, cell.draw, cell.seed)
    if cell.method == ZERO_SHOT:
        asked = zero_shot(bench.backbone, data.task, limit)
        return replace(asked, reserve=settings.target_reserve, window=settings.window)
    train, shots = data.splits["train"], int(cell.shots)
    shown = in_context(bench.backbone, data.task, train, shots, draw=cell.draw, seed=cell.seed, limit=limit)
    return replace(shown, window=settings.window)
