"""A sweep from end to end on a tiny backbone: complete, continued, fair, and never computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clinprompt.errors import TrainingError
from clinprompt.evaluation import answerer
from clinprompt.experiments import trainings, units
from clinprompt.experiments.cells import Group
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.results import read_results
from clinprompt.experiments.store import ResultsFile, Store
from clinprompt.experiments.sweep import Local, Sweep
from clinprompt.experiments.trainings import Row, train_together
from clinprompt.experiments.workbench import Workbench
from clinprompt.methods.constant import Constant
from clinprompt.methods.registry import METHODS, find_method
from clinprompt.records import Record
from clinprompt.suites import TaskData
from clinprompt.tasks.codec import Codec
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.examples import sample_records
from clinprompt.training.few_shot import draw_shots
from tests.experiments.workspace import PROTOCOL, bench

LOOP = {"steps": 3, "batch_size": 2, "evaluate_every": 3, "validation_limit": 4}
CHANGES: dict[str, Any] = {
    "methods": ["pt"],
    "shots": ["full"],
    "seeds": 2,
    "tuning_runs": 2,
    "targets": ["find-target"],
}


def run(workbench: Workbench, out: Path, rows: int = 32) -> Sweep:
    sweep = Sweep(workbench, ResultsFile(out), rows)
    sweep.run(Local(workbench, Claims(workbench.store.claims), rows))
    return sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    workbench = bench(folder)
    run(workbench, folder / "results.jsonl")
    return workbench, folder


def test_every_planned_cell_is_there_once(swept: tuple[Workbench, Path]) -> None:
    workbench, folder = swept
    found = read_results(folder / "results.jsonl")
    # 2 targets × (zero-shot once; pt and mpt at 0, two draws of 2, and full)
    assert len(found.cells) == 2 * (1 + 2 * 4) == len({cell.id for cell in found.cells})
    assert {cell.key for cell in found.cells} == found.planned
    assert not found.contradictions
    assert [line.variant for line in found.metaprompts] == ["mpt"]
    assert {cell.metaprompt for cell in found.cells if cell.method == "mpt"} == {found.metaprompts[0].digest}
    assert set(found.test_sets) == {cell.test_set for cell in found.cells}
    assert not list(workbench.store.claims.iterdir())
    assert not list((workbench.store.work / "trainings").iterdir())


def test_a_line_says_what_was_tried_and_what_it_cost(swept: tuple[Workbench, Path]) -> None:
    cells = {cell.key: cell for cell in read_results(swept[1] / "results.jsonl").cells}
    for method, numbers in (("pt", 4 * 32), ("mpt", 4 * 32 + 4 + 32)):
        cell = cells["find-target", method, "full", 0, 0]
        assert cell.trainable == numbers
        assert cell.stored_bytes == 4 * 32 * 4
        assert len(cell.trials) == 2 and "find-target" in cell.trials[0].on
        best = min(cell.trials, key=lambda trial: trial.score or 0.0)
        assert cell.chosen == best.values
        alone = cells["find-target", method, 2, 1, 0]  # outside the pool: trained once, with what the pool chose
        pooled = cells["find-target", method, 2, 0, 0]
        assert alone.chosen == pooled.chosen and pooled.flops > 1.5 * alone.flops
        assert cells["find-target", method, 0, 0, 0].flops == 0 == cells["find-target", method, 0, 0, 0].stored_bytes
    assert all(isinstance(entry, tuple) for entry in cells["find-target", "pt", "full", 0, 0].per_example)
    assert all(isinstance(entry, float) for entry in cells["infer-target", "pt", "full", 0, 0].per_example)


def test_a_finished_sweep_computes_nothing(swept: tuple[Workbench, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    workbench, folder = swept
    monkeypatch.setattr(units, "answer_cells", forbidden)
    monkeypatch.setattr(trainings, "adapt", forbidden)
    before = (folder / "results.jsonl").read_bytes()
    run(workbench, folder / "results.jsonl")
    assert (folder / "results.jsonl").read_bytes() == before
    # The store alone is enough for the results file, and the results file for the store.
    run(workbench, folder / "again.jsonl")
    assert len(read_results(folder / "again.jsonl").cells) == 18
    elsewhere = bench(folder)
    elsewhere.store = type(elsewhere.store)(folder / "other-work")
    run(elsewhere, folder / "results.jsonl")


def forbidden(*args: Any, **named: Any) -> Any:
    raise AssertionError("computed again")


def test_cells_of_another_precision_are_not_taken_for_finished(tmp_path: Path) -> None:
    """Ids leave the precision out; the work folder and the results file refuse a run in another one."""
    changes: dict[str, Any] = {"methods": ["zero-shot"], "shots": [0]}
    run(bench(tmp_path, **changes), tmp_path / "r.jsonl")
    mixed = bench(tmp_path, **changes)
    mixed.backbone.autocast = True
    with pytest.raises(TrainingError, match=r"work: its cells .* float32, and this run .* float32, bf16 autocast"):
        run(mixed, tmp_path / "other.jsonl")
    elsewhere = replace(mixed, store=Store(tmp_path / "elsewhere"))
    with pytest.raises(TrainingError, match=r"r\.jsonl: cell .* was computed in float32, and"):
        run(elsewhere, tmp_path / "r.jsonl")
    run(elsewhere, tmp_path / "elsewhere.jsonl")
    assert all(c.settings["numerics"]["autocast"] for c in read_results(tmp_path / "elsewhere.jsonl").cells)


def test_the_constant_answer_is_found_in_what_others_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"methods": ["constant"], "shots": [2, "full"], "targets": ["infer-target"]}
    workbench, seen, real = bench(tmp_path, **changes), [], answerer.best_constant

    def noted(task: TaskDefinition, codec: Codec, records: Sequence[Record]) -> Constant:
        seen.append({record.id for record in records})
        return real(task, codec, records)

    monkeypatch.setattr(answerer, "best_constant", noted)
    run(workbench, tmp_path / "r.jsonl")
    train = workbench.target("infer-target").splits["train"]
    task = workbench.target("infer-target").task
    draws = [{record.id for record in draw_shots(task, train, 2, draw=draw)} for draw in (0, 1)]
    assert seen == [*draws, {record.id for record in sample_records(task.name, train, 8)}]
    cells = read_results(tmp_path / "r.jsonl").cells
    assert [(c.shots, c.draw, c.trainable, c.flops) for c in cells] == [(2, 0, 0, 0), (2, 1, 0, 0), ("full", 0, 0, 0)]


def test_more_draws_leave_the_old_cells_alone(swept: tuple[Workbench, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = swept[1]
    more = bench(folder, draws=3, methods=["pt"], shots=[2])
    seen: list[Row] = []
    real = trainings.adapt

    def spied(backbone: Any, metaprompt: Any, plans: Any, **named: Any) -> Any:
        seen.extend(Row(p.target.task.name, -1, p.settings.draw, p.settings.seed) for p in plans)
        return real(backbone, metaprompt, plans, **named)

    monkeypatch.setattr(trainings, "adapt", spied)
    sweep = run(more, folder / "more.jsonl")
    assert sweep.total == 6
    fresh = {row.target: row.draw for row in seen if row.draw == 2}
    assert set(fresh) == {"find-target", "infer-target"}
    assert {row.draw for row in seen} == {2}  # the others are scored, and the trial that draw 0 chose is known
    found = read_results(folder / "more.jsonl").cells
    for target in ("find-target", "infer-target"):
        chosen = [cell.chosen for cell in found if cell.target == target]
        assert len(chosen) == 3 and chosen[0] == chosen[1] == chosen[2]


def test_interrupted_between_cells_it_goes_on_with_the_same_training(tmp_path: Path) -> None:
    workbench = bench(tmp_path, **CHANGES)
    sweep = Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32)
    claims = Claims(workbench.store.claims)

    def stop(cell: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        units.run_unit(workbench, sweep.units()[0], claims, rows=32, finished=stop)
    assert not list(workbench.store.claims.iterdir())
    kept = list((workbench.store.work / "trainings").glob("*.safetensors"))
    assert len(kept) == 1
    resumed = run(bench(tmp_path, **CHANGES), tmp_path / "r.jsonl")
    straight = run(bench(tmp_path / "other", **CHANGES), tmp_path / "straight.jsonl")
    first, second = (read_results(tmp_path / name).cells for name in ("r.jsonl", "straight.jsonl"))
    assert resumed.total == straight.total == 2
    assert [(c.key, c.metrics, c.trials) for c in first] == [(c.key, c.metrics, c.trials) for c in second]


@pytest.mark.parametrize("method", ["pt", "mpt", "lora"])
def test_a_row_of_a_sweep_equals_its_solitary_twin(method: str, tmp_path: Path) -> None:
    workbench = bench(tmp_path, methods=[method], shots=[0, 2])
    run(bench(tmp_path, methods=[method], shots=[0]), tmp_path / "r.jsonl")  # learns the metaprompt
    spec = find_method(method)
    rows = (Row("find-target", 0, 0, 0), Row("find-target", 1, 1, 0), Row("infer-target", 0, 0, 0))
    crowd = train_together(workbench, spec, 2, rows)
    for row in rows:
        alone = train_together(workbench, spec, 2, (row,))[row]
        assert alone.loss == pytest.approx(crowd[row].loss, rel=1e-4)
        for name, tensor in alone.file.tensors.items():
            assert (tensor - crowd[row].file.tensors[name]).abs().max() < 2e-4, (row, name)
    losses = {round(crowd[row].loss, 6) for row in rows}
    assert len(losses) == len(rows)  # the rows are different runs


def test_a_trial_that_diverges_is_not_chosen_and_ends_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it trains beside others nor in a training of its own, and the results are the same."""
    grid = ({"loop.learning_rate": 1e20}, find_method("lora").grid[0])
    monkeypatch.setitem(METHODS, "lora", replace(find_method("lora"), grid=grid))
    run(bench(tmp_path / "crowd", **CHANGES | {"methods": ["lora"]}), tmp_path / "crowd.jsonl", 32)
    run(bench(tmp_path / "alone", **CHANGES | {"methods": ["lora"]}), tmp_path / "alone.jsonl", 1)
    crowd, alone = (read_results(tmp_path / f"{name}.jsonl").cells for name in ("crowd", "alone"))
    assert len(crowd) == 2
    for ours, theirs in zip(crowd, alone, strict=True):
        assert ours.chosen == grid[1] and ours.trials[0].score is None
        assert ours.trials[1].score == pytest.approx(theirs.trials[1].score, rel=1e-4)
        assert (ours.chosen, ours.metrics) == (theirs.chosen, theirs.metrics)


class Watched(dict[str, list[Record]]):
    """Splits that count how often test records are asked for."""

    asked = 0

    def __getitem__(self, split: str) -> list[Record]:
        self.asked += split == "test"
        return super().__getitem__(split)


@pytest.mark.parametrize("last", [False, True])
def test_a_sweep_that_died_while_it_scored_leaves_no_checkpoints(
    last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the cells of two targets that were trained together, or behind the last one."""
    changes: dict[str, Any] = {"methods": ["pt"], "shots": ["full"]}
    total, out = Sweep(bench(tmp_path, **changes), ResultsFile(tmp_path / "r.jsonl"), 32).total, tmp_path / "r.jsonl"
    real, finished = Store.keep_cell, list[str]()

    def dying(store: Store, line: dict[str, Any]) -> bool:
        kept = real(store, line)
        finished.append(line["id"])
        if len(finished) == (total if last else 1):
            raise KeyboardInterrupt
        return kept

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "keep_cell", dying)
        run(bench(tmp_path, **changes), out)
    left = {path.suffix for path in (tmp_path / "work" / "trainings").iterdir()}
    assert total == 2 and left == {".json", ".safetensors"}
    run(bench(tmp_path, **changes), out)
    assert len(read_results(out).cells) == total
    assert not list((tmp_path / "work" / "trainings").iterdir())


@pytest.mark.parametrize(("shots", "choose_by"), [(2, "loss"), ("full", "loss"), (2, "score")])
def test_selection_never_touches_test_records(
    shots: Any, choose_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"methods": ["pt"], "shots": [shots], "targets": ["find-target"], "choose_by": choose_by}
    workbench = bench(tmp_path, **changes)
    sweep = Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32)
    data = workbench.target("find-target")
    watched = Watched(data.splits)
    workbench._targets["find-target"] = TaskData(data.task, data.role, watched, data.licence)
    asked: list[int] = []
    real = units.answer_cells
    monkeypatch.setattr(units, "answer_cells", lambda *a: (asked.append(watched.asked), real(*a))[1])
    sweep.run(Local(workbench, Claims(workbench.store.claims), 32))
    described = asked[0]
    assert described <= 2  # to name the test set in the results file, before anything is trained
    assert watched.asked > described
    # And their content has no influence: with other test records the same trial wins with the same losses.
    other = bench(tmp_path, **changes)
    moved = TaskData(data.task, data.role, {**data.splits, "test": data.splits["train"][:4]}, data.licence)
    other._targets["find-target"] = moved
    other.store = type(other.store)(tmp_path / "other-work")
    run(other, tmp_path / "other.jsonl")
    ours, theirs = (read_results(tmp_path / name).cells for name in ("r.jsonl", "other.jsonl"))
    assert [(c.trials, c.chosen) for c in ours] == [(c.trials, c.chosen) for c in theirs]
    assert {c.id for c in ours}.isdisjoint(c.id for c in theirs)


def test_every_method_trains_on_the_same_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbench = bench(tmp_path, methods=["pt", "mpt", "lora"], shots=[2], trials=1, targets=["infer-target"])
    drawn: dict[str, dict[tuple[int, int], tuple[bytes, ...]]] = {}
    real = trainings.adapt

    def spied(backbone: Any, metaprompt: Any, plans: Sequence[Any], **named: Any) -> Any:
        result = real(backbone, metaprompt, plans, **named)
        for plan, file in zip(plans, result.tasks, strict=True):
            key = (plan.settings.draw, plan.settings.seed)
            drawn.setdefault(plan.settings.method, {})[key] = (file.card.data[0].digest,)
        return result

    monkeypatch.setattr(trainings, "adapt", spied)
    run(workbench, tmp_path / "r.jsonl")
    assert drawn["pt"] == drawn["mpt"] == drawn["lora"]
    assert len(set(drawn["pt"].values())) == 2


def test_prompts_of_all_methods_stand_where_the_metaprompts_have_theirs(tmp_path: Path) -> None:
    def of(position: str | None) -> Workbench:
        learn = PROTOCOL["learn"] | ({"prompt_position": position} if position else {})
        return bench(tmp_path, methods=["pt", "lora"], shots=[2], trials=1, targets=["infer-target"], learn=learn)

    def ids(workbench: Workbench, method: str) -> list[str]:
        return [cell.id for group in workbench.groups() if group.method == method for cell in group.cells]

    usual, end = of(None), of("end")
    row = Row("infer-target", 0, 0, 0)
    standing = [train_together(w, find_method("pt"), 2, (row,))[row].file.card.position for w in (usual, end)]
    assert standing == ["start", "end"]
    assert ids(of("start"), "pt") == ids(usual, "pt")  # what the backbone's preset says is told nowhere
    assert set(ids(end, "pt")).isdisjoint(ids(usual, "pt"))
    assert ids(end, "lora") == ids(usual, "lora")


def test_a_target_may_have_limits_of_its_own(tmp_path: Path) -> None:
    limits = {"infer-target": {"train": 5, "validation": 2, "test": 3}}
    workbench = bench(tmp_path, methods=["zero-shot"], target_limits=limits)
    run(workbench, tmp_path / "r.jsonl")
    found = {cell.target: (cell.n, cell.n_all) for cell in read_results(tmp_path / "r.jsonl").cells}
    assert found == {"infer-target": (3, 6), "find-target": (4, 6)}
    assert {split: len(records) for split, records in workbench.target("infer-target").splits.items()} == {
        "train": 5,
        "validation": 2,
        "test": 3,
    }


def test_identity_hangs_on_what_decides_the_result(tmp_path: Path) -> None:
    def identities(**changes: Any) -> set[str]:
        return {cell.id for group in groups(**changes) for cell in group.cells}

    def groups(**changes: Any) -> list[Group]:
        return bench(tmp_path, **{"methods": ["pt"], "shots": ["full"], **changes}).groups()

    base = identities()
    assert identities(methods=["pt", "zero-shot"]) >= base  # what else is compared does not matter
    assert identities(seeds=2) > base  # the pool that judges the trials is still the first run
    assert identities(seeds=2, tuning_runs=2).isdisjoint(base)
    grown = identities(seeds=2, tuning_runs=3)  # fewer than judge: with a third, that one judges too
    assert identities(seeds=3, tuning_runs=3).isdisjoint(grown)
    assert identities(seeds=3, tuning_runs=2) > grown
    adapt = {"target_reserve": 16, "window": 64, "loop": {"steps": 3, "batch_size": 2, "evaluate_every": 3}}
    assert identities(adapt=adapt).isdisjoint(base)
    assert identities(trials=1).isdisjoint(base)
    assert identities(limits={"train": 8, "validation": 4, "test": 3}).isdisjoint(base)
    assert identities(learn={"prompt_length": 5}).isdisjoint(base)
    adapt = {"target_reserve": 16, "window": 64, "loop": {**LOOP, "checkpoint_every": 1, "micro_tokens": 64}}
    assert identities(adapt=adapt) == base
