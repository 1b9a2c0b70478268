"""Trials chosen by score: what the score is, which trial it takes, and that a choice by loss stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clinprompt.evaluation.answerer import of_task
from clinprompt.evaluation.evaluate import evaluate_records
from clinprompt.experiments import choosing
from clinprompt.experiments.choosing import choose
from clinprompt.experiments.trainings import Row, train_together
from clinprompt.experiments.workbench import Workbench
from clinprompt.methods.registry import find_method
from tests.experiments.workspace import bench

CHANGES: dict[str, Any] = {"methods": ["pt"], "shots": [2], "targets": ["find-target"], "trials": 3, "draws": 2}
ROWS = tuple(Row("find-target", trial, 0, 0) for trial in range(3))


def trained(workbench: Workbench) -> Any:
    return train_together(workbench, find_method("pt"), 2, ROWS)


def test_the_score_is_that_of_the_answers_to_the_validation_records(tmp_path: Path) -> None:
    workbench = bench(tmp_path, **CHANGES, choose_by="score")
    (group,) = workbench.groups()
    tuned = trained(workbench)
    found = choose(workbench, group, tuned)
    held = workbench.trainee("find-target").validation
    alone = [evaluate_records(of_task(workbench.backbone, tuned[row].file), held).value.value for row in ROWS]
    assert [trial.score for trial in found.trials] == pytest.approx(alone, abs=1e-6)
    assert all(trial.on.startswith("validation score of find-target") and not trial.minimise for trial in found.trials)
    assert choose(workbench, group, {}) == found  # kept


def test_the_highest_score_wins_and_among_equals_the_lowest_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = trained(bench(tmp_path, **CHANGES))
    by_loss = sorted(range(3), key=lambda trial: tuned[ROWS[trial]].loss)
    given = dict.fromkeys(ROWS, 10.0) | {ROWS[by_loss[0]]: 5.0}
    monkeypatch.setattr(choosing, "_scores", lambda *_: given)
    for choose_by, best in (("score", by_loss[1]), ("loss", by_loss[0])):
        workbench = bench(tmp_path, **CHANGES, choose_by=choose_by)
        (group,) = workbench.groups()
        assert choose(workbench, group, tuned).chosen == best


def test_a_choice_by_score_is_another_experiment(tmp_path: Path) -> None:
    ids = [{cell.id for cell in bench(tmp_path, **CHANGES, choose_by=by).groups()[0].cells} for by in ("loss", "score")]
    assert len(ids[0]) == len(ids[1]) == 2 and ids[0].isdisjoint(ids[1])
    assert {cell.id for cell in bench(tmp_path, **CHANGES).groups()[0].cells} == ids[0]
