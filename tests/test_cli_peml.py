"""The search on the command line, and what is trained with its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import cli_workspace
from tests.test_cli import run, run_json
from tests.test_cli_errors import error

pytest.importorskip("optuna", reason="the outer search needs the extra `search`")

CONFIG = """\
trials: 1
depths: [1]
lengths: [3]
widths: [8]
hiddens: [4]
limit: 6
validation_records: 2
relax:
  operations: [zero, mlp-tanh, norm]
  lora: {rank: 2}
  initial: "text: Find"
  prefix_ratio: 2.5
  stochastic: false
  most_tasks: 3
  loop: {steps: 2, batch_size: 2, validation_limit: 2, learning_rate: 0.0007}
"""


def test_a_search_is_trained_on_and_its_architecture_taken_back(tmp_path: Path) -> None:
    place, out = cli_workspace.make(tmp_path / "corpora"), tmp_path / "search"
    (place / "search.yaml").write_text(CONFIG)
    asked = ("search", place / "suite.yaml", "--config", place / "search.yaml", "--backbone", "tiny", "--out", out)
    found = run_json(*asked, "--then", "continue", "--then-steps", 2)
    assert found["trials"][0]["gap"] == pytest.approx(
        found["trials"][0]["discrete_loss"] - found["trials"][0]["relaxed_loss"]
    )
    assert set(found["trained"]["validation_loss"]) == {"find-problems", "infer"}
    refused = error(*asked, "--trials", 2, "--then", "continue")
    assert "was trained with the best of 1 trials; the best of 2 may be another" in refused
    assert not list(out.glob("trial-002*"))  # before anything is searched
    again = run("search", *asked[1:])
    assert "trial" in again and "architecture.yaml" in again
    assert "All points were random: TPE chooses from trial 5 on." in again
    card = run_json("inspect", out / "adapter-continued" / "multitask.safetensors", "--task", "infer")["card"]
    assert card["adapter"]["architecture"] == found["architecture"]
    used = card["settings"]  # what the search was told is told to the training
    assert (used["adapter"]["initial"], used["adapter"]["prefix_ratio"]) == ("text: Find", 2.5)
    assert (used["loop"]["learning_rate"], used["stochastic"], used["most_tasks"]) == (0.0007, False, 3)
    scored = run_json(
        *("evaluate", out / "adapter-continued" / "multitask.safetensors", place / "infer.yaml"),
        *("--task", "infer", "--limit", 2),
    )
    assert scored["n"] == 2
    file, steps = tmp_path / "one.safetensors", ("--backbone", "tiny", "--steps", 2, "--rank", 2, "--score", 0)
    run_json(
        *("adapt", "none", place / "find.yaml", "--method", "peml", "--order", "sequential", "--limit", 6),
        *("--architecture", out / "architecture.yaml", *steps, "--out", file),
    )
    described = run_json("inspect", file)["card"]
    assert described["method"] == "peml" and described["adapter"]["architecture"] == found["architecture"]
    note = tmp_path / "note.txt"
    note.write_text("She has gout.", encoding="utf-8")
    assert json.loads(run("predict", file, note))["task"] == "find-problems"


def test_a_network_produces_a_metaprompt_and_is_gone(tmp_path: Path) -> None:
    place, out, file = cli_workspace.make(tmp_path / "corpora"), tmp_path / "run", tmp_path / "network.yaml"
    file.write_text("operations: [norm]\nwidth: 8\n")
    asked = ("learn", place / "suite.yaml", "--backbone", "tiny", "--method", "mpt-generated", "--architecture", file)
    small = ("--prompt-length", 4, "--teacher-steps", 2, "--steps", 2, "--limit", 4)
    plan = run_json(*asked, *small, "--out", out, "--dry-run", "--flops-per-second", "1e9")
    found = run_json(*asked, *small, "--out", out)
    assert plan["trained_parameters"] > found["parameters"]  # the file holds P*, not the network
    card = run_json("inspect", out / "metaprompt.safetensors", "--task", "infer")["card"]
    assert card["settings"]["architecture"]["operations"] == ["norm"]
    steps = ("--steps", 2, "--shots", 4, "--score", 0, "--out", tmp_path / "task.safetensors")
    run_json("adapt", out / "metaprompt.safetensors", place / "find.yaml", *steps)
    assert "leave out --extend" in error(*asked[:4], "--out", out, "--method", "mpt-generated", "--extend", "x")


def test_what_a_method_cannot_use_is_refused(tmp_path: Path) -> None:
    place, file = cli_workspace.make(tmp_path), tmp_path / "network.yaml"
    file.write_text("operations: [norm]\n")
    adapt = ("adapt", "none", place / "find.yaml", "--backbone", "tiny", "--out", tmp_path / "x.safetensors")
    assert "--architecture belongs to --method peml" in error(*adapt, "--method", "lora+prefix", "--architecture", file)
    learn = ("learn", place / "suite.yaml", "--backbone", "tiny", "--out", tmp_path / "x")
    assert "--architecture belongs to --method peml" in error(*learn, "--method", "lora", "--architecture", file)
    search = ("search", place / "suite.yaml", "--backbone", "tiny", "--out", tmp_path / "x")
    assert "retrain or continue" in error(*search, "--then", "stop")
    assert "belongs to --then" in error(*search, "--then-steps", 3)
