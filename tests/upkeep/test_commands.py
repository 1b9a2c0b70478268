"""`learn --extend` and `drift` from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clinprompt.cli import app
from clinprompt.prompts.artifact import load_metaprompt
from tests.cli_workspace import INFER, infer_line, make

LEARN = ("--backbone", "tiny", "--teacher-steps", "2", "--steps", "2", "--limit", "8")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def run_json(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two tasks with a metaprompt, and a third task."""
    folder = make(tmp_path_factory.mktemp("upkeep"))
    (folder / "more.yaml").write_text(INFER.replace("name: infer", "name: infer-more"))
    run("learn", folder / "suite.yaml", "--out", folder / "run", *LEARN, "--prompt-length", 4)
    yield folder


@pytest.mark.parametrize("keep", ["freeze", "replay"])
def test_extend(place: Path, tmp_path: Path, keep: str) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    asked = ("learn", "--extend", meta, place / "more.yaml", "--old", place / "suite.yaml", "--keep", keep, *LEARN)
    found = run_json(*asked, "--out", tmp_path / "new", "--score", 2)
    written = load_metaprompt(tmp_path / "new" / "metaprompt.safetensors")
    assert found["parent"] == load_metaprompt(meta).digest == written.card.parent
    assert found["digest"] == written.digest and found["keep"] == keep and found["unmeasured"] == []
    assert [row["task"] for row in found["old"]] == ["find-problems", "infer"]
    for row in found["old"]:
        assert {"metric", "n", "before", "after", "loss_before", "loss_after"} <= set(row)
        assert (row["loss_before"] == row["loss_after"]) == (keep == "freeze")
    scores = written.card.metrics["extension"]["old_scores"]
    assert scores["infer"]["n"] == 2 and scores["infer"]["metric"] == "accuracy"
    text = run(*asked, "--out", tmp_path / "new")
    assert "loss_before" in text and "still need that file" in text
    scored = run_json("evaluate", tmp_path / "new" / "metaprompt.safetensors", place / "more.yaml", "--source",
                      "infer-more", "--limit", 2)  # fmt: skip
    assert scored["n"] == 2


def test_old_tasks_without_data(place: Path, tmp_path: Path) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    asked = ("learn", "--extend", meta, place / "more.yaml", "--out", tmp_path / "new", *LEARN)
    found = run_json(*asked)
    assert found["unmeasured"] == ["find-problems", "infer"] and found["old"][0]["loss_before"] is None
    text = run(*asked[:4], "--out", tmp_path / "other", *LEARN, "--keep", "replay", code=2)
    assert "not at hand: find-problems, infer" in text and "freeze" in text


def test_plan_of_an_extension(place: Path, tmp_path: Path) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    asked = ("learn", "--extend", meta, place / "more.yaml", "--old", place / "suite.yaml", "--out", tmp_path / "x")
    frozen = run_json(*asked, *LEARN, "--dry-run", "--flops-per-second", "1e9")
    replayed = run_json(*asked, *LEARN, "--dry-run", "--flops-per-second", "1e9", "--keep", "replay")
    assert [s["parameters"] for s in frozen["stages"]] == [4 * 64, 0, 4 + 64]
    assert [s["parameters"] for s in replayed["stages"]] == [4 * 64, 0, 4 * 64 + 3 * (4 + 64)]
    assert not list(tmp_path.iterdir())


def test_refusals(place: Path, tmp_path: Path) -> None:
    meta, out = place / "run" / "metaprompt.safetensors", tmp_path / "out"
    extend = ("learn", "--extend", meta, "--out", out, *LEARN)
    assert "--prompt-length and --rank" in run(*extend, place / "more.yaml", "--rank", 2, code=2)
    assert "already: infer." in run(*extend, place / "infer.yaml", code=2)
    assert "none of the metaprompt's tasks" in run(*extend, place / "more.yaml", "--old", "sample", code=2)
    same = ("learn", "--extend", meta, place / "more.yaml", "--out", place / "run", *LEARN)
    assert "name another folder" in run(*same, code=2)
    assert "one suite is learned from" in run("learn", "a", "b", "--out", out, code=2)
    assert "belong to --extend" in run("learn", "sample", "--keep", "freeze", "--out", out, code=2)
    assert not out.exists()


@pytest.fixture(scope="module")
def dated(place: Path) -> Path:
    """A corpus of 2019 to 2022 on which the tiny model's own answers are right at first, and at last wrong."""
    lines = [json.loads(infer_line("d", i)) for i in range(80)]
    plain = place / "plain.jsonl"
    plain.write_text(
        "".join(json.dumps(line | {"label": None}) + "\n" for line in lines).replace('"label": null', '"label": "yes"')
    )
    predicted = run("predict", place / "run" / "metaprompt.safetensors", plain, "--source", "infer", "--quiet")
    answers = {row["id"]: row["label"] for row in map(json.loads, predicted.splitlines()) if "label" in row}
    for i, line in enumerate(lines):
        year, right = 2019 + i // 20, i // 20 < 2
        said = answers[line["id"]]
        line["label"] = said if right else {"yes": "no", "no": "yes"}[said]
        line["meta"] = {"date": f"{year}-0{1 + i % 9}-15", "site": "AB"[i % 2]}
    (place / "dated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = INFER.replace("infer-test.jsonl, test: infer-test.jsonl", "infer-test.jsonl, test: dated.jsonl")
    (place / "dated.yaml").write_text(task.replace("name: infer", "name: dated"))
    return place


def test_drift_over_years(dated: Path, tmp_path: Path) -> None:
    asked = ("drift", dated / "run" / "metaprompt.safetensors", dated / "dated.yaml", "--source", "infer")
    found = run_json(*asked, "--by", "year", "--permutations", 200, "--plot", tmp_path / "years.svg")
    assert [s["name"] for s in found["slices"]] == ["2019", "2020", "2021", "2022"]
    assert [s["score"]["value"] for s in found["slices"]] == [100.0, 100.0, 0.0, 0.0]
    assert (
        found["drifted"] and found["trend"]["slope"] < -20 and found["difference_p"] == pytest.approx(1 / 201, abs=1e-6)
    )
    assert found["n"] == found["available"] == 80 and found["missing"] == 0
    assert "2022 (n=20)" in (tmp_path / "years.svg").read_text()
    text = run(*asked, "--by", "quarter", "--permutations", 200, "--fail-on-drift", "--limit", 60, "--least", 2, code=3)
    assert "2021-Q3" in text and "a change was found" in text


def test_no_drift_between_sites(dated: Path) -> None:
    asked = ("drift", dated / "run" / "metaprompt.safetensors", dated / "dated.yaml", "--source", "infer")
    text = run(*asked, "--by", "site", "--permutations", 200, "--fail-on-drift")
    assert "no change was found" in text and "Trend" not in text
    table = dated / "wards.csv"
    table.write_text("id,ward\n" + "".join(f"d-{i},{'east' if i < 40 else 'west'}\n" for i in range(70)))
    found = run_json(*asked, "--by", "ward", "--fields", table, "--permutations", 200, "--fail-on-drift", code=3)
    assert found["missing"] == 10 and found["trend"] is None
    assert "unknown field" in run(*asked, "--by", "wing", code=2)


def test_shard_needs_processes_and_learn(place: Path, tmp_path: Path) -> None:
    asked = ("learn", place / "suite.yaml", "--out", tmp_path / "x", *LEARN, "--shard")
    assert "needs several processes" in run(*asked, code=2)
    assert "leave out --extend" in run(*asked, "--score", 3, code=2)
