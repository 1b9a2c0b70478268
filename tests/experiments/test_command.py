"""`clinprompt benchmark` on the command line: plan, run, run again, reproduce, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from clinprompt.cli import app
from tests.experiments.workspace import PROTOCOL, make
from tests.models import byte_tokenizer, tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    suite = make(folder / "data")
    tiny().model.save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    (folder / "plan.yaml").write_text(yaml.safe_dump({**PROTOCOL, "suite": str(suite)}))
    return folder


def run(place: Path, *arguments: str) -> Any:
    fixed = ["--backbone", str(place / "model"), "--work", str(place / "work")]
    return CliRunner().invoke(app, ["benchmark", *arguments, *fixed])


def test_plan_run_and_run_again(place: Path) -> None:
    config = ["--config", str(place / "plan.yaml"), "--out", str(place / "r.jsonl"), "--json"]
    narrow = ["--targets", "infer-target", "--shots", "0,2", "--methods", "zero-shot,mpt"]
    planned = run(place, *config, *narrow, "--dry-run")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    assert (plan["cells"], plan["left"], plan["metaprompts"]) == (4, 4, 1)
    by_method = {method["method"]: method for method in plan["methods"]}
    assert by_method["mpt"]["rows"] == 2 + 1 + 1  # two trials on the first draw, one on the second; 0 shots
    assert plan["flops"] > by_method["mpt"]["flops"] > 0 and plan["seconds"] > 0
    assert not (place / "r.jsonl").exists()
    done = run(place, *config, *narrow)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["cells"] == 4
    again = run(place, *config, *narrow, "--dry-run")
    assert (json.loads(again.stdout)["left"], json.loads(again.stdout)["metaprompts"]) == (0, 0)
    elsewhere = ["--work", str(place / "another")]  # what the results file holds is done, wherever that was
    moved = CliRunner().invoke(
        app, ["benchmark", *config, *narrow, "--dry-run", "--backbone", str(place / "model"), *elsewhere]
    )
    assert (json.loads(moved.stdout)["left"], json.loads(moved.stdout)["metaprompts"]) == (0, 0), moved.output


def test_reproduce(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "r.jsonl").read_text().splitlines()]
    cell = next(line for line in lines if line["kind"] == "cell" and line["method"] == "mpt" and line["draw"] == 1)
    found = run(place, "--reproduce", str(place / "r.jsonl"), "--id", cell["id"], "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["exact"]
    usable = ["--dtype", "float32", "--device", "cpu", "--quiet"]
    found = run(place, "--reproduce", str(place / "nowhere.jsonl"), "--id", cell["id"], *usable)
    assert "0 cells have an id" in found.output  # as far as the file: none of these is refused
    cell["per_example"][0] = 1 - cell["per_example"][0]
    (place / "changed.jsonl").write_text(json.dumps(cell) + "\n")
    found = run(place, "--reproduce", str(place / "changed.jsonl"), "--id", cell["id"])
    assert found.exit_code == 2
    assert "Differs in: per_example" in found.stdout


@pytest.mark.parametrize(
    ("tuning_runs", "arguments", "warned"),
    [
        (3, ["--draws", "2", "--seeds", "1", "--shots", "2,full"], "draws: 2 and seeds: 1, fewer than"),
        (3, ["--draws", "2", "--seeds", "3", "--shots", "2,full"], "draws: 2, fewer than"),
        (3, ["--draws", "3", "--shots", "0,2"], ""),
        (3, ["--draws", "2", "--shots", "2", "--trials", "1"], ""),  # nothing is chosen
        (1, ["--draws", "1", "--seeds", "1"], ""),
    ],
)
def test_a_sweep_that_cannot_grow_says_so_once(
    place: Path, tmp_path: Path, tuning_runs: int, arguments: list[str], warned: str
) -> None:
    suite = str(place / "data" / "suite.yaml")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PROTOCOL, "suite": suite, "tuning_runs": tuning_runs}))
    narrow = ["--targets", "infer-target", "--methods", "zero-shot,pt", "--dry-run", "--flops-per-second", "1e9"]
    command = ["--config", str(tmp_path / "plan.yaml"), *narrow, *arguments]
    found = run(place, *command)
    assert found.exit_code == 0, found.output
    assert found.stderr.count("tuning_runs: ") == bool(warned)
    assert warned in found.stderr and "tuning_runs: " not in found.stdout
    assert "tuning_runs: " not in run(place, *command, "--quiet").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a SUITE"),
        (["sample", "--executor", "slurm"], "known are local, ray"),
        (["sample", "--workers", "2"], "--workers belongs to --executor ray"),
        (["--id", "x"], "go together"),
        (["sample", "--reproduce", "r.jsonl", "--id", "x"], "leave SUITE"),
        (["--reproduce", "r.jsonl", "--id", "x", "--dry-run"], "leave --dry-run out"),
        (
            ["--reproduce", "r.jsonl", "--id", "x", "--methods", "pt", "--threads", "2", "--rows", "1"],
            "leave --methods, --threads, --rows out",
        ),
        (["--reproduce", "r.jsonl", "--id", "x", "--executor", "local"], "leave --executor out"),  # also the default
        (["--reproduce", "r.jsonl", "--id", "x", "--multitask", "--out", "o"], "leave --multitask, --out out"),
        (["nowhere"], "unknown suite"),
        (["sample", "--methods", "pt,ptt"], "unknown method 'ptt'"),
        (["sample", "--targets", "sample-event"], "Did you mean 'sample-events'"),
    ],
)
def test_refused(place: Path, arguments: list[str], message: str) -> None:
    found = run(place, *arguments)
    assert found.exit_code == 2
    assert message in found.output
