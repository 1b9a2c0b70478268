"""Trials judged on sources: on what metaprompts have not seen, once for all targets, and nothing of a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clinprompt.errors import TrainingError
from clinprompt.experiments import trainings
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.estimate import estimate
from clinprompt.experiments.held_out import held_out, judging
from clinprompt.experiments.reproduce import recorded_cell, run_again
from clinprompt.experiments.results import read_results
from clinprompt.experiments.store import ResultsFile
from clinprompt.experiments.sweep import Local, Sweep
from clinprompt.experiments.workbench import Workbench
from clinprompt.suites import TaskData
from clinprompt.training.examples import sample_records
from clinprompt.training.settings import LearnSettings
from tests.experiments.workspace import PROTOCOL, bench
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

SOURCES: dict[str, Any] = {"choose_on": "sources", "methods": ["pt", "mpt"], "shots": [2], "draws": 2}
LEARN = LearnSettings(limit=8, validation_records=3)


def run(workbench: Workbench, out: Path) -> Sweep:
    sweep = Sweep(workbench, ResultsFile(out), 32)
    sweep.run(Local(workbench, Claims(workbench.store.claims), 32))
    return sweep


def test_what_is_held_out_was_not_learned_from() -> None:
    source = ner_task()
    left = held_out(source, LEARN)
    learned = {r.id for r in sample_records("find", source.train, 8)}
    stopped = {r.id for r in sample_records("find", source.validation, 3)}
    assert {r.id for r in left.train} == {r.id for r in source.train} - learned and len(left.train) == 4
    assert {r.id for r in left.validation} == {r.id for r in source.validation} - stopped
    assert held_out(source, LearnSettings(validation_records=9)).validation == source.validation


def test_types_take_turns() -> None:
    sources = [ner_task("a"), ner_task("b"), nli_task("c"), ner_task("d")]

    def names(count: int, targets: tuple[str, ...] = ()) -> list[str]:
        return [source.task.name for source in judging(sources, targets, LEARN, 2, count)]

    assert names(3) == ["a", "c", "b"] and names(9) == ["a", "c", "b", "d"]
    assert names(2, ("a",)) == ["b", "c"]
    with pytest.raises(TrainingError, match="5 training records beyond the 8"):
        judging(sources, (), LEARN, 5, 1)


def test_one_choice_for_all_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbench = bench(tmp_path, **SOURCES)
    trained: list[tuple[str, Any]] = []
    real = trainings.adapt

    def spied(backbone: Any, metaprompt: Any, plans: Any, **named: Any) -> Any:
        trained.extend((p.target.task.name, p.settings.draw) for p in plans)
        return real(backbone, metaprompt, plans, **named)

    monkeypatch.setattr(trainings, "adapt", spied)
    planned = {m.method: m.rows for m in estimate(Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32), 1e9).methods}
    run(workbench, tmp_path / "r.jsonl")
    judges = {"find-source", "infer-source"}
    # Per method two trials on two sources with one draw; then every draw of every target once.
    assert len([row for row in trained if row[0] in judges]) == 2 * 2 * 2 and {
        d for n, d in trained if n in judges
    } == {0}
    assert len([row for row in trained if row[0] not in judges]) == 2 * 2 * 2
    assert planned == {"pt": 8, "mpt": 8}
    cells = read_results(tmp_path / "r.jsonl").cells
    for method in ("pt", "mpt"):
        own = [cell for cell in cells if cell.method == method]
        assert len(own) == 4 and len({str((c.trials, c.chosen, c.settings["choosing"])) for c in own}) == 1
        assert own[0].trials[0].on == "validation loss of the sources find-source, infer-source, mean over 1 runs"
        best = min(own[0].trials, key=lambda trial: trial.score or 0.0)
        assert own[0].chosen == best.values
        assert own[0].settings["choosing"]["flops"] > 0
        assert len({round(c.flops) for c in own if c.target == "find-target"}) <= 2  # no trials in them
    assert not list((workbench.store.work / "trainings").iterdir()) and not list(workbench.store.claims.iterdir())
    # A draw more trains itself and no trial.
    trained.clear()
    run(bench(tmp_path, **{**SOURCES, "draws": 3, "methods": ["pt"]}), tmp_path / "more.jsonl")
    assert sorted(trained) == [("find-target", 2), ("infer-target", 2)]


def test_a_cell_comes_out_again(tmp_path: Path) -> None:
    run(bench(tmp_path, **{**SOURCES, "methods": ["pt"]}), tmp_path / "r.jsonl")
    for cell in read_results(tmp_path / "r.jsonl").cells[:2]:
        again = run_again(recorded_cell(tmp_path / "r.jsonl", cell.id), tiny(), tmp_path / "other", None)
        assert again.exact, again.differences


def test_nothing_of_a_target_has_a_say(tmp_path: Path) -> None:
    workbench = bench(tmp_path, **{**SOURCES, "methods": ["pt"], "targets": ["infer-target"]})
    run(workbench, tmp_path / "r.jsonl")
    other = bench(tmp_path, **{**SOURCES, "methods": ["pt"], "targets": ["infer-target"]})
    data = other.target("infer-target")
    splits = {**data.splits, "validation": [], "train": data.splits["train"][:9]}
    other._targets["infer-target"] = TaskData(data.task, data.role, splits, data.licence)
    other.store = type(other.store)(tmp_path / "other-work")
    run(other, tmp_path / "other.jsonl")
    ours, theirs = (read_results(tmp_path / name).cells for name in ("r.jsonl", "other.jsonl"))
    assert [(c.trials, c.chosen) for c in ours] == [(c.trials, c.chosen) for c in theirs]
    assert {c.id for c in ours}.isdisjoint(c.id for c in theirs)


def test_targets_that_share_p_star(tmp_path: Path) -> None:
    run(bench(tmp_path, **{**SOURCES, "methods": ["mpt-group"], "draws": 1}), tmp_path / "r.jsonl")
    cells = read_results(tmp_path / "r.jsonl").cells
    assert {cell.target for cell in cells} == {"find-target", "infer-target"}
    assert all("sources find-source, infer-source" in cell.trials[0].on for cell in cells)


def test_identities(tmp_path: Path) -> None:
    def identities(**changes: Any) -> set[str]:
        return {cell.id for group in bench(tmp_path, **{**SOURCES, **changes}).groups() for cell in group.cells}

    base = identities()
    assert identities(choose_on="target").isdisjoint(base)
    assert identities(choose_on="target") == identities(choose_on="target", choose_sources=1)
    assert identities(choose_sources=1).isdisjoint(base)
    assert identities(targets=["find-target"]) < base
    assert identities(trials=1) == identities(trials=1, choose_on="target")  # nothing is chosen


def test_sources_that_were_seen_whole_are_refused(tmp_path: Path) -> None:
    whole = {**SOURCES, "learn": {**PROTOCOL["learn"], "limit": 16}}
    with pytest.raises(TrainingError, match=r"no source has 2 training records beyond the 16 .* choose_on: target"):
        bench(tmp_path, **whole).groups()
    assert bench(tmp_path, **{**whole, "shots": [0]}).groups()
