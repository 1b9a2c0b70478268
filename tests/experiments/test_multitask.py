"""A comparison of multi-task methods: complete, fair in size and trials, searches charged, nothing computed twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from clinprompt.cli import app
from clinprompt.errors import TaskError, TrainingError
from clinprompt.experiments import multitask_trainings
from clinprompt.experiments.board import lay_out
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.estimate import estimate
from clinprompt.experiments.multitask_bench import MultitaskBench, multitask_bench
from clinprompt.experiments.multitask_protocol import (
    MultitaskProtocol,
    load_multitask_protocol,
    parse_multitask_protocol,
)
from clinprompt.experiments.report import compose
from clinprompt.experiments.reproduce import recorded_cell, run_again
from clinprompt.experiments.results import Cell, read_results
from clinprompt.experiments.store import ResultsFile, Store, read_json
from clinprompt.experiments.sweep import Local, Sweep
from clinprompt.experiments.trainings import Row
from clinprompt.methods.registry import MULTITASK
from clinprompt.training.multitask import learn_multitask
from clinprompt.training.search import SearchSettings
from tests.experiments.workspace import make
from tests.models import byte_tokenizer, tiny

BUDGET = 3000
PLAN: dict[str, Any] = {
    "methods": {
        "lora": None,
        "lora+prefix-3": {"method": "lora+prefix", "adapter": {"length": 3}, "trials": 3},
        "peml": {"search": ["find-source"]},
        "mtl-lora": {},
    },
    "parameters": BUDGET,
    "trials": 2,
    "limits": {"train": 8, "validation": 4, "test": 4},
    "training": {
        "target_reserve": 16,
        "window": 64,
        "loop": {"steps": 2, "batch_size": 4, "evaluate_every": 2, "checkpoint_every": 1},
    },
    "search": {
        "trials": 1,
        "depths": [1],
        "lengths": [3],
        "widths": [4],
        "hiddens": [4],
        "relax": {"loop": {"steps": 1, "batch_size": 4}, "lora": {"rank": 1}, "operations": ["identity", "mlp-relu"]},
    },
}
TARGETS = ("find-target", "infer-target")
CONFIGS = Path(__file__).parents[2] / "configs" / "benchmarks"


def bench(folder: Path, **changes: Any) -> MultitaskBench:
    suite = folder / "data" / "suite.yaml"
    if not suite.exists():
        make(folder / "data")
    plan = parse_multitask_protocol({**PLAN, "suite": str(suite), **changes})
    return multitask_bench(plan, tiny(), Store(folder / "work"))


def run(workbench: MultitaskBench, out: Path) -> Sweep:
    sweep = Sweep(workbench, ResultsFile(out), 32)
    sweep.run(Local(workbench, Claims(workbench.store.claims), 32))
    return sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[MultitaskBench, Path]:
    folder = tmp_path_factory.mktemp("multitask")
    workbench = bench(folder)
    planned = estimate(Sweep(workbench, ResultsFile(folder / "r.jsonl"), 32), 1e9)
    assert {m.method: m.rows for m in planned.methods} == {"lora": 2, "lora+prefix-3": 3, "peml": 2, "mtl-lora": 2}
    assert all(m.flops > 0 and m.predict_seconds > 0 for m in planned.methods)
    run(workbench, folder / "r.jsonl")
    return workbench, folder


def cells_of(folder: Path) -> dict[tuple[str, str], Cell]:
    return {(cell.method, cell.target): cell for cell in read_results(folder / "r.jsonl").cells}


def test_every_planned_cell_is_there_and_of_equal_size(swept: tuple[MultitaskBench, Path]) -> None:
    workbench, folder = swept
    found = read_results(folder / "r.jsonl")
    assert {cell.key for cell in found.cells} == found.planned and len(found.cells) == 4 * 2
    assert {cell.suite for cell in found.cells} == {"suite (multi-task)"}
    for cell in found.cells:
        assert cell.trainable == pytest.approx(BUDGET, rel=0.2)
        assert cell.shots == "full" and len(cell.per_example) == cell.n == 4
    assert not list(workbench.store.claims.iterdir())
    assert estimate(Sweep(workbench, ResultsFile(folder / "r.jsonl"), 32), 1e9).left == 0


def test_trials_are_chosen_on_validation_and_the_search_is_charged(swept: tuple[MultitaskBench, Path]) -> None:
    workbench, folder = swept
    cells = cells_of(folder)
    for (method, _), cell in cells.items():
        tried = [trial for trial in cell.trials if "loop.learning_rate" in trial.values]
        assert len(tried) == (3 if method == "lora+prefix-3" else 2)
        best = min(tried, key=lambda trial: trial.score or 0.0)
        assert {key: value for key, value in cell.chosen.items() if key != "network"} == best.values
        assert best.on == "mean validation loss of all 2 tasks"
    cell, found = cells["peml", "find-target"], workbench.found("peml")
    assert found is not None and len(cell.trials) == 3 and "network" in cell.trials[2].values
    assert cell.settings["search"]["tasks"] == ["find-source"] and cell.settings["search"]["trials"] == 1
    notes = [read_json(workbench.training_folder("peml", trial, 0) / "line.json") for trial in (0, 1)]
    for unit in ("flops", "seconds"):
        trained = sum(note["cost"][unit] for note in notes if note)
        whole = sum(getattr(cells["peml", t], "flops" if unit == "flops" else "train_seconds") for t in TARGETS)
        # A cell's seconds are written in thousandths, so each may be half of one off.
        rounding = 0.0005 * (len(TARGETS) + 1) if unit == "seconds" else 0.0
        assert whole == pytest.approx(trained + found[unit], rel=1e-6, abs=rounding) and found[unit] > 0
    assert cells["lora", "find-target"].settings.get("search") is None


def test_a_finished_comparison_computes_nothing(
    swept: tuple[MultitaskBench, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = swept[1]
    for place in ("units.score_cell", "multitask_trainings.learn_multitask", "multitask_bench.train_adapters"):
        monkeypatch.setattr(f"clinprompt.experiments.{place}", forbidden)
    before = (folder / "r.jsonl").read_bytes()
    run(bench(folder), folder / "r.jsonl")
    assert (folder / "r.jsonl").read_bytes() == before


def forbidden(*args: Any, **named: Any) -> Any:
    raise AssertionError("computed again")


def test_rows_with_one_training_share_it_and_more_seeds_leave_the_old_alone(
    swept: tuple[MultitaskBench, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = swept[1]
    seen: list[int] = []
    real = learn_multitask

    def spied(backbone: Any, sources: Any, settings: Any, *args: Any, **named: Any) -> Any:
        seen.append(settings.seed)
        return real(backbone, sources, settings, *args, **named)

    monkeypatch.setattr(multitask_trainings, "learn_multitask", spied)
    rows = {"lora": None, "again": {"method": "lora", "trials": 1}}
    run(bench(folder, methods=rows, seeds=2), folder / "more.jsonl")
    # lora's seed 0 is there with both trials; seed 1 trains what was chosen, and "again" its only trial.
    chosen = cells_of(folder)["lora", "find-target"].chosen["loop.learning_rate"]
    assert seen == [1] * (1 if chosen == 0.001 else 2)
    assert len(read_results(folder / "more.jsonl").cells) == 8


def test_interrupted_it_goes_on_where_it_was(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"methods": ["mtl-lora"], "trials": 1, "suite": str(make(tmp_path / "data"))}
    workbench = bench(tmp_path, **changes)

    def stop(what: str, done: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        multitask_trainings.learn_once(workbench, "mtl-lora", 0, 0, stop)
    spent = read_json(workbench.training_folder("mtl-lora", 0, 0) / multitask_trainings.SPENT)
    assert spent is not None and spent["seconds"] > 0
    parts = multitask_trainings.learn_once(workbench, "mtl-lora", 0, 0)
    straight = multitask_trainings.learn_once(replace(workbench, store=Store(tmp_path / "straight")), "mtl-lora", 0, 0)
    assert parts.adapter.card.digest == straight.adapter.card.digest and parts.losses == straight.losses
    assert parts.cost.seconds > spent["seconds"] and parts.cost.flops == straight.cost.flops
    again = multitask_trainings.train_adapters(workbench, "mtl-lora", [Row("find-target", 0, 0, 0)])
    assert set(again) == {Row(target, 0, 0, 0) for target in TARGETS}
    assert again[Row("infer-target", 0, 0, 0)].cost.flops == parts.cost.flops / 2


def test_a_cell_comes_out_the_same_again(swept: tuple[MultitaskBench, Path], tmp_path: Path) -> None:
    cell = cells_of(swept[1])["lora", "find-target"]
    found = run_again(recorded_cell(swept[1] / "r.jsonl", cell.id), tiny(), tmp_path, None)
    assert found.exact, found.differences


def test_the_report_names_sizes_searches_and_types(swept: tuple[MultitaskBench, Path]) -> None:
    board = lay_out(read_results(swept[1] / "r.jsonl"))
    assert board.reference == "peml" and board.together
    document = compose(board, draw=False, resamples=50)
    tables = {table.name: table for table in document.tables}
    sizes = {row["method"]: row for row in tables["adapters"].data}
    assert sizes["peml"]["search_trials"] == 1 and sizes["lora"]["search_trials"] is None
    cells = [cell for cell in board.cells if cell.method == "peml"]
    assert sizes["peml"]["flops"] == pytest.approx(sum(cell.flops for cell in cells))
    assert "prefix of 3 from" in str(next(row[1] for row in tables["adapters"].rows if row[0] == "`peml`"))
    assert len(tables["types"].columns) == 3 and len(tables["comparisons"].rows) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["lora", "lorra"]}, "unknown multi-task method 'lorra'"),
        ({"methods": {"lora": {"search": "tasks"}}}, "belong to peml"),
        ({"methods": {"peml": {"search": "tasks", "architecture": {"width": 4}}}}, "not both"),
        ({"trials": 7}, "the grid of 'lora' holds 6"),
        ({"methods": {"lora": {"rates": [0.1, 0.1]}}}, "names a rate twice"),
        ({"methods": {"lora": {"rates": [0.1]}}}, "2 trials, but the grid of 'lora' holds 1"),
        ({"training": {"seed": 3}}, "`training` cannot hold `seed`"),
        ({"shots": [0]}, "shots"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        parse_multitask_protocol({"suite": "sample", **changes})


def test_a_row_may_say_which_rates_it_tries() -> None:
    plan = parse_multitask_protocol({"suite": "sample", "methods": {"prefix": {"rates": [0.2, 0.7]}, "lora": None}})
    rates = [[plan.settings(name, trial, 0, {}).loop.learning_rate for trial in (0, 1)] for name in ("prefix", "lora")]
    assert rates == [[0.2, 0.7], [0.003, 0.01]]


def test_a_source_that_the_suite_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Did you mean 'find-source'"):
        bench(tmp_path, methods={"peml": {"search": ["find-sources"]}}).groups()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*-multitask.yaml")), ids=lambda path: path.stem)
def test_plans_of_the_repository_are_valid(path: Path) -> None:
    plan = load_multitask_protocol(path, {})
    assert isinstance(plan.search_settings(), SearchSettings)
    for name in plan.methods:
        for trial in range(plan.trials_of(name)):
            plan.settings(name, trial, 0, {})
    assert set(MULTITASK) == {row.method for row in plan.methods.values()} or path.stem == "sample-multitask"


def test_an_architecture_file_is_read_beside_the_plan(tmp_path: Path) -> None:
    (tmp_path / "cell.yaml").write_text("operations: [norm]\nwidth: 4\nsearch: {seconds: 60, tokens: 1000}\n")
    rows = {"given": {"method": "peml", "architecture": "cell.yaml"}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "suite": "sample", "methods": rows}))
    plan = load_multitask_protocol(tmp_path / "plan.yaml", {"steps": 7, "limits": {"test": 3}})
    network = plan.methods["given"].architecture
    assert network is not None and network.operations == ("norm",)
    assert plan.settings("given", 0, 0, {}).loop.steps == 7 and plan.limits.test == 3
    cost = multitask_trainings.search_cost(multitask_bench(plan, tiny(), Store(tmp_path)), "given", None)
    assert cost.seconds == 60 and cost.flops > 1000
    assert MultitaskProtocol.model_validate(plan.model_dump(mode="json")) == plan


def test_the_command(tmp_path: Path) -> None:
    suite = make(tmp_path / "data")
    tiny().model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "suite": str(suite)}))
    fixed = ["benchmark", "--multitask", "--config", str(tmp_path / "plan.yaml"), "--work", str(tmp_path / "work")]
    fixed += ["--backbone", str(tmp_path / "model"), "--out", str(tmp_path / "r.jsonl"), "--methods", "lora,mtl-lora"]
    planned = CliRunner().invoke(app, [*fixed, "--dry-run", "--json", "--flops-per-second", "1e9"])
    assert planned.exit_code == 0, planned.output
    assert {m["method"] for m in json.loads(planned.stdout)["methods"]} == {"lora", "mtl-lora"}
    done = CliRunner().invoke(app, [*fixed, "--targets", "find-target,infer-target", "--trials", "1", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["cells"] == 4, done.output
    refused = CliRunner().invoke(app, [*fixed, "--shots", "0,5"])
    assert refused.exit_code == 2 and "leave out --shots" in refused.output
