"""The benchmark scripts run at toy sizes and find what they assert about themselves: equal curves, rows equal twins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

from benchmarks import contest, rows, training


def test_training_curves_are_one(tmp_path: Path) -> None:
    out = tmp_path / "training.json"
    size = ["--model", "smoke", "--steps", "4", "--batch-size", "4", "--examples", "16", "--prompt-length", "4"]
    options = training.parser().parse_args([*size, "--threads", "1", "--micro-tokens", "512"])
    options.contender = "ours"
    ours = training.contend(options)
    options.contender = "peft"
    peft = training.contend(options)
    assert ours["losses"] == pytest.approx(peft["losses"], abs=1e-4)
    assert ours["tokens"] == peft["tokens"] and ours["examples"] == 8
    assert ours["floor_flops"] == 4 * (
        2 * (3 * 32 * 64 + 2 * 32 * 32 + 2 * 32 * 16) * ours["tokens"] + 1024 * 32 * ours["labels"]
    )
    contest.write({"losses": ours["losses"]}, out)
    assert json.loads(out.read_text()) == {"losses": ours["losses"]}


def in_this_process(module: str, contender: str, options: Mapping[str, Any]) -> dict[str, Any]:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    module_ = {"benchmarks.rows": rows, "benchmarks.training": training}[module]
    found: dict[str, Any] = module_.contend(module_.parser().parse_args(["--contender", contender, *words]))
    return found


def test_rows_equal_twins_and_peft(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "run", in_this_process)  # three processes would spend seconds on imports
    out = tmp_path / "rows.json"
    size = ["--model", "smoke", "--rows", "3", "--peft-rows", "2", "--shots", "4", "--steps", "3", "--batch-size", "2"]
    rows.main([*size, "--prompt-length", "4", "--threads", "1", "--peak-seconds", "0.01", "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["largest_difference_from_twin"]["losses"] < 1e-4
    assert report["largest_difference_from_peft"]["losses"] < 1e-4
    assert report["largest_difference_from_peft"]["prompts"] < 2e-3
    assert report["contenders"]["peft"]["extrapolated"] and not report["contenders"]["alone"]["extrapolated"]
    assert "3 adaptations of sample-events" in capsys.readouterr().out
