"""A cell comes out again from its line, and what is not the same is refused or named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clinprompt.commands.options import ModelChoice
from clinprompt.errors import TrainingError
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.metaprompts import metaprompt_jobs, run_job
from clinprompt.experiments.reproduce import recorded_cell, run_again
from clinprompt.experiments.results import MetaLine
from clinprompt.experiments.spending import told_cost
from clinprompt.experiments.store import ResultsFile, read_json
from clinprompt.experiments.sweep import Local, Sweep
from tests.experiments.workspace import bench
from tests.models import tiny


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    methods = ["constant", "zero-shot", "pt", "mpt"]
    workbench = bench(folder, methods=methods, shots=[0, 2, "full"], targets=["infer-target"])
    Sweep(workbench, ResultsFile(folder / "r.jsonl"), 32).run(Local(workbench, Claims(workbench.store.claims), 32))
    return folder / "r.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [line for line in ResultsFile(path).lines() if line["kind"] == "cell"]


def test_every_kind_of_cell_comes_out_exactly(recorded: Path, tmp_path: Path) -> None:
    wanted = [
        line
        for line in lines(recorded)
        if (line["method"], line["shots"], line["draw"])
        in [("zero-shot", 0, 0), ("constant", 2, 1), ("pt", "full", 0), ("mpt", 2, 0), ("mpt", 2, 1), ("pt", 0, 0)]
    ]
    assert len(wanted) == 6
    for line in wanted:
        found = run_again(recorded_cell(recorded, line["id"][:12]), tiny(), tmp_path / "work", None)
        assert found.exact, (line["method"], line["shots"], found.differences)
        assert not found.remarks
    assert not (tmp_path / "work" / "cells").exists()  # nothing was looked up


def test_draws_that_were_answered_together_come_out_exactly(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"methods": ["pt", "lora"], "shots": [2], "draws": 4}
    workbench = bench(tmp_path, **changes)
    Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32).run(Local(workbench, Claims(workbench.store.claims), 32))
    found = {(line["method"], line["target"], line["draw"]): line for line in lines(tmp_path / "r.jsonl")}
    for target in ("find-target", "infer-target"):
        # Draw 0 judges the trials in a training of its own; the others train, and answer, together.
        assert "answered_with" not in found["pt", target, 0]["settings"]
        company = [[target, found["pt", target, 1]["settings"]["answered_with"][0][1], draw, 0] for draw in (1, 2, 3)]
        assert all(found["pt", target, draw]["settings"]["answered_with"] == company for draw in (1, 2, 3))
        assert "answered_with" not in found["lora", target, 1]["settings"]
        line = found["pt", target, 2]
        again = run_again(recorded_cell(tmp_path / "r.jsonl", line["id"]), tiny(), tmp_path / "other", None)
        assert again.exact, again.differences


def test_a_line_that_was_changed_is_found_out(recorded: Path, tmp_path: Path) -> None:
    line = next(line for line in lines(recorded) if line["method"] == "zero-shot")
    line["metrics"]["accuracy"][0] += 1.0
    path = tmp_path / "changed.jsonl"
    path.write_text(json.dumps(line) + "\n")
    found = run_again(recorded_cell(path, line["id"]), tiny(), tmp_path / "work", None)
    assert found.differences == ("metrics",)


def test_another_backbone_is_refused(recorded: Path, tmp_path: Path) -> None:
    cell = recorded_cell(recorded, lines(recorded)[0]["id"])
    with pytest.raises(TrainingError, match=f"fingerprint {cell.fingerprint}"):
        run_again(cell, tiny(seed=1), tmp_path / "work", None)


def test_another_precision_is_refused_and_the_line_decides_which(recorded: Path, tmp_path: Path) -> None:
    cell = recorded_cell(recorded, lines(recorded)[0]["id"])
    assert cell.settings["numerics"] == {"dtype": "float32", "autocast": False, "quantise": None}
    with pytest.raises(TrainingError, match="was computed in float32, and this is float32, bf16 autocast"):
        run_again(cell, replace(tiny(), autocast=True), tmp_path / "work", None)
    noted = {"dtype": "float32", "autocast": True, "quantise": None}
    assert ModelChoice(None, device="cpu").in_numerics(noted) == ModelChoice(None, "float32", "cpu", None, True)
    given = ModelChoice(None, dtype="bfloat16")
    assert given.in_numerics(noted) == given


def test_an_unknown_id_is_refused(recorded: Path) -> None:
    with pytest.raises(TrainingError, match="0 cells have an id"):
        recorded_cell(recorded, "no-such")
    with pytest.raises(TrainingError, match=r"\d+ cells have an id"):
        recorded_cell(recorded, "")


def test_shared_teachers_are_trained_once(tmp_path: Path) -> None:
    workbench = bench(
        tmp_path, methods=["mpt", "mpt-no-stochastic", "mpt-vectors"], shots=[0], targets=["infer-target"]
    )
    sweep = Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32)
    sweep.run(Local(workbench, Claims(workbench.store.claims), 32))
    assert len(list((tmp_path / "work" / "teachers").iterdir())) == 1
    assert len(list((tmp_path / "work" / "metaprompts").iterdir())) == 2  # mpt and mpt-vectors learn the same one
    told = [line for line in ResultsFile(tmp_path / "r.jsonl").lines() if line["kind"] == "metaprompt"]
    assert {line["variant"] for line in told} == {"mpt", "mpt-no-stochastic"}
    teachers = read_json(next((tmp_path / "work" / "teachers").iterdir()) / "cost.json")
    assert teachers is not None and set(teachers["seconds"]) == {"teachers", "teacher states"}
    assert all(line["seconds"] >= sum(teachers["seconds"].values()) * 0.9 for line in told)


def test_a_learned_metaprompt_waits_for_nobody_who_learns_another_from_its_teachers(tmp_path: Path) -> None:
    workbench = bench(tmp_path, methods=["mpt", "spot"], shots=[2], draws=1, trials=1, targets=["infer-target"])
    Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32).run(Local(workbench, Claims(workbench.store.claims), 32))
    told = [line for line in ResultsFile(tmp_path / "r.jsonl").lines() if line["kind"] == "metaprompt"]
    assert {line["variant"] for line in told} == {"mpt", "spot"}
    busy = Claims(workbench.store.claims)
    with busy.beating():
        assert busy.take([f"teachers-{folder.name}" for folder in (tmp_path / "work" / "teachers").iterdir()])
        for line in lines(tmp_path / "r.jsonl"):
            cell = recorded_cell(tmp_path / "r.jsonl", line["id"])
            again = run_again(cell, workbench.backbone, tmp_path / "work", None)
            assert not again.differences


def test_a_metaprompt_from_a_searched_network_is_charged_the_search(tmp_path: Path) -> None:
    network = {"width": 8, "hidden": 4, "search": {"seconds": 5000, "tokens": 1000}}
    changes: dict[str, Any] = {"methods": ["mpt-generated"], "shots": [0], "targets": ["infer-target"]}
    workbench = bench(tmp_path, **changes, generator=network)
    (job,) = metaprompt_jobs(workbench, workbench.groups())
    charged: list[MetaLine] = []
    assert run_job(workbench, job, Claims(workbench.store.claims), finished=charged.append)
    free = bench(tmp_path / "free", **changes, generator=network | {"search": {}})
    (other,) = metaprompt_jobs(free, free.groups())
    assert other.key == job.key
    assert run_job(free, other, Claims(free.store.claims), finished=charged.append)
    assert charged[0].seconds > 5000 > charged[1].seconds
    assert charged[0].flops - charged[1].flops == told_cost(workbench.backbone, workbench.protocol.generator).flops > 0


def test_variants_are_learned_side_by_side_once_their_teachers_are_there(tmp_path: Path) -> None:
    workbench = bench(tmp_path, methods=["mpt", "mpt-no-stochastic"], shots=[0], targets=["infer-target"])
    first, second = metaprompt_jobs(workbench, workbench.groups())
    assert first.teachers == second.teachers
    here, there = Claims(workbench.store.claims), Claims(workbench.store.claims)
    found: dict[str, set[bool]] = {}

    def beside(stage: str, *_: object) -> None:
        if True not in found.get(stage, set()):
            answer = run_job(workbench, second, there, finished=lambda _: None)
            found.setdefault(stage.removeprefix("mpt 0: "), set()).add(answer)

    lines: list[MetaLine] = []
    assert run_job(workbench, first, here, finished=lines.append, progress=beside)
    assert found["teachers"] == found["teacher states"] == {False} and True in found["metaprompt"]
    assert lines[0].variant == "mpt" and workbench.store.metaprompt_line(second.key) is not None
    assert not list(workbench.store.claims.iterdir())
