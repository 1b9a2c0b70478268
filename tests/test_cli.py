"""The command line from end to end on the tiny backbone: every verb, its JSON, its files and its dry run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import clinprompt
from clinprompt.cli import app
from clinprompt.commands import demo
from clinprompt.prompts.artifact import load_metaprompt, save_metaprompt
from tests.cli_workspace import infer_line, make

LEARN = ("--backbone", "tiny", "--teacher-steps", "2", "--steps", "2", "--limit", "8", "--prompt-length", "4")
Run = Callable[..., str]


def run(*arguments: object, code: int = 0, stdin: str | None = None) -> str:
    """Standard output of a command that must end with `code`."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def run_json(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpora, tasks, a learned metaprompt and an adapted task file."""
    folder = make(tmp_path_factory.mktemp("cli"))
    run("learn", folder / "suite.yaml", "--out", folder / "run", *LEARN)
    run("adapt", folder / "run" / "metaprompt.safetensors", folder / "find.yaml", "--shots", 4, "--steps", 2,
        "--score", 0, "--out", folder / "find.safetensors")  # fmt: skip
    return folder


def test_help_needs_no_torch() -> None:
    code = "import sys, clinprompt.cli, clinprompt; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("verb", ["demo", "data", "learn", "adapt", "evaluate", "predict", "inspect"])
def test_every_verb_explains_itself(verb: str) -> None:
    text = run(verb, "--help")
    assert "Usage" in text and len(text) > 400
    if verb not in ("demo", "data"):
        assert "Examples:" in text


def test_learn_again_is_the_same_run(place: Path) -> None:
    before = (place / "run" / "metaprompt.safetensors").read_bytes()
    found = run_json("learn", place / "suite.yaml", "--out", place / "run", *LEARN, "--score", 3)
    assert (place / "run" / "metaprompt.safetensors").read_bytes() == before
    assert found["parameters"] == 4 * 64 + 2 * (4 + 64) and found["bytes"] == len(before)
    assert [s["task"] for s in found["sources"]] == ["find-problems", "infer"]
    assert all(0 < s["validation_loss"] < 20 and s["metric"] in ("strict_f1", "accuracy") for s in found["sources"])


def test_learn_table(place: Path) -> None:
    text = run("learn", place / "suite.yaml", "--out", place / "run", *LEARN)
    assert "find-problems" in text and "clinprompt adapt" in text


def test_dry_run_of_learn_trains_nothing(place: Path) -> None:
    out = place / "never"
    found = run_json("learn", place / "suite.yaml", "--out", out, *LEARN, "--dry-run", "--flops-per-second", "1e9")
    assert not out.exists()
    assert [s["name"] for s in found["stages"]] == ["teachers", "teacher states", "metaprompt"]
    assert [s["parameters"] for s in found["stages"]] == [2 * 4 * 64, 0, 4 * 64 + 2 * 68]
    states = found["stages"][1]
    weights = 2 * found["body_parameters"] * states["tokens"]
    assert weights < states["flops"] < 1.5 * weights  # attention is the rest
    assert found["seconds"] == pytest.approx(found["flops"] / 1e9) and not found["rate_measured"]
    text = run("learn", place / "suite.yaml", "--out", out, *LEARN, "--dry-run")
    assert "4·N per token" in text and "measured" in text


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ((), 48 * 64),
        (("--own-length", "3"), 3 * 64),
        (("--mode", "full"), 4 * 64 + 68),
        (("--mode", "full", "--own-length", "3"), 7 * 64 + 68),
        (("--mode", "vectors"), 68),
        (("--mode", "shared"), 4 * 64),
        (("--method", "pt"), 4 * 64),
        (("--method", "pt", "--own-length", "3"), 7 * 64),
        (("--method", "spot"), 4 * 64),
        (("--method", "prefix", "--prompt-length", "3"), 3 * 2 * 128),
        (("--method", "lora", "--rank", "2", "--targets", "q_proj"), 2 * 2 * 128),
        (("--method", "full"), 160064),
        (("--shots", "0"), 0),
    ],
)
def test_adapt(place: Path, tmp_path: Path, arguments: tuple[str, ...], parameters: int) -> None:
    out = tmp_path / "task.safetensors"
    meta = place / "run" / "metaprompt.safetensors"
    found = run_json("adapt", meta, place / "infer.yaml", "--steps", 2, "--score", 4, "--out", out, *arguments)
    assert found["parameters"] == parameters
    assert found["tasks"][0]["bytes"] == out.stat().st_size
    assert found["tasks"][0]["metric"] == "accuracy" and set(found["tasks"][0]["score"]) == {"value", "low", "high"}
    assert list(tmp_path.iterdir()) == [out], "the checkpoint is gone"
    scored = run_json("evaluate", out, place / "infer.yaml", "--limit", 3)
    assert scored["n"] == 3 and scored["sampled"] and scored["available"] == 6


def test_source_prompts_of_spot_are_learned_and_adapted(place: Path, tmp_path: Path) -> None:
    asked = ("learn", place / "suite.yaml", "--method", "spot", "--out", tmp_path / "run")
    small = tuple(x for i, x in enumerate(LEARN) if "--steps" not in LEARN[max(0, i - 1) : i + 1])
    found = run_json(*asked, *small)
    assert found["sources"] and all(
        s["teacher_loss"] == pytest.approx(s["validation_loss"], rel=1e-5) for s in found["sources"]
    )
    out = tmp_path / "task.safetensors"
    sources, adapt = tmp_path / "run" / "metaprompt.safetensors", ("--method", "spot", "--steps", 2, "--score", 0)
    run("adapt", sources, place / "infer.yaml", *adapt, "--out", out)
    assert run_json("evaluate", out, place / "infer.yaml", "--limit", 3)["n"] == 3
    for useless in (("--steps", 3), ("--rank", 2), ("--extend", sources)):
        assert CliRunner().invoke(app, [str(x) for x in (*asked, *small, *useless)]).exit_code == 2


def test_prompt_tuning_stands_where_the_metaprompt_does(place: Path, tmp_path: Path) -> None:
    """They are compared: length and position are the metaprompt's."""
    learned, meta, out = place / "run" / "metaprompt.safetensors", tmp_path / "end.safetensors", tmp_path / "pt.st"
    found = load_metaprompt(learned)
    save_metaprompt(replace(found, card=found.card.model_copy(update={"position": "end"})), meta)
    run("adapt", meta, place / "infer.yaml", "--method", "pt", "--steps", 2, "--score", 0, "--out", out)
    described = run_json("inspect", out)["card"]
    assert (found.card.position, described["position"], described["method"]) == ("start", "end", "pt")
    assert "metaprompt" not in described or not described["metaprompt"]


def test_an_adapter_is_inspected(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "task.safetensors"
    chosen = ("--method", "lora", "--rank", 2, "--targets", "q_proj")
    run("adapt", "none", place / "infer.yaml", *chosen, "--backbone", "tiny", "--steps", 2, "--score", 0, "--out", out)
    found = run_json("inspect", out)
    assert [line["part"].rpartition(".")[2] for line in found["changes"]] == ["q_proj", "q_proj"]
    assert all(0 < line["relative"] < 1 for line in found["changes"])
    assert "method lora (rank 2" in run("inspect", out, "--html", tmp_path / "page.html")
    assert "What the adapter changes" in (tmp_path / "page.html").read_text()


def test_examples_in_context(place: Path) -> None:
    arguments = ("evaluate", "zero-shot", place / "infer.yaml", "--backbone", "tiny", "--in-context", 3, "--limit", 2)
    assert run_json(*arguments)["in_context"] == {"given": 3, "fitted": 3.0, "least": 3}
    assert "In context: 3 solved examples were given, of which 3.0 fitted" in run(*arguments)


def test_adapt_a_group_into_a_folder(place: Path, tmp_path: Path) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    tasks = (place / "find.yaml", place / "infer.yaml")
    text = run("adapt", meta, *tasks, "--mode", "group", "--steps", 2, "--score", 0, "--out", tmp_path / "both")
    assert f"{4 * 64 + 2 * 68} numbers" in text
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["find-problems.safetensors", "infer.safetensors"]


def test_dry_run_of_adapt(place: Path, tmp_path: Path) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    plan = (
        "adapt",
        meta,
        place / "find.yaml",
        "--mode",
        "vectors",
        "--steps",
        10,
        "--out",
        tmp_path / "x",
        "--dry-run",
    )
    found = run_json(*plan)
    assert found["trained_parameters"] == 68 and found["stages"][0]["steps"] == 10 and found["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_evaluate_json_and_card(place: Path) -> None:
    file = place / "find.safetensors"
    found = run_json("evaluate", file, place / "find.yaml", "--split", "test", "--write")
    assert {"task", "n", "metrics", "split", "headline", "ungrounded", "malformed", "omitted", "errors"} <= set(found)
    assert found["task"] == "find-problems" and found["n"] == 6 and found["headline"] == "strict_f1"
    assert all(set(m) == {"value", "low", "high"} for m in found["metrics"].values())
    assert found["errors"]["missed"] + found["errors"]["correct"] + found["errors"]["boundary"] == 6
    card = run_json("inspect", file, "--card")["card"]
    assert card["metrics"]["test"]["metrics"] == found["metrics"]
    assert "score" in run("evaluate", file, place / "find.yaml")


def test_evaluate_a_source_and_zero_shot(place: Path) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    found = run_json("evaluate", meta, place / "infer.yaml", "--source", "infer", "--limit", 2)
    assert found["task"] == "infer" and found["n"] == 2
    found = run_json("evaluate", "zero-shot", place / "infer.yaml", "--backbone", "tiny", "--limit", 2)
    assert found["metrics"]["accuracy"]["value"] in (0.0, 50.0, 100.0)
    assert run_json("evaluate", "zero-shot", "sample-radiology", "--backbone", "tiny", "--limit", 2)["available"] == 80


def test_evaluate_the_best_constant_answer(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "infer-train.jsonl").write_text("".join(infer_line("train", number) for number in (0, 2, 4, 5)))
    (tmp_path / "infer-test.jsonl").write_text("".join(infer_line("test", number) for number in (0, 1, 2, 4)))
    found = run_json("evaluate", "constant", tmp_path / "infer.yaml", "--backbone", "tiny")
    assert found["metrics"]["accuracy"]["value"] == 75.0 and found["metrics"]["class_f1/no"]["value"] == 0.0
    same = clinprompt.evaluate("constant", str(tmp_path / "infer.yaml"), backbone="tiny")
    assert same.summary()["metrics"] == found["metrics"]
    stderr = CliRunner().invoke(app, ["evaluate", "constant", str(tmp_path / "infer.yaml"), "--write"]).stderr
    assert "constant is no file of yours" in stderr


def test_predict_reads_files_lines_and_standard_input(place: Path, tmp_path: Path) -> None:
    file = place / "find.safetensors"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("He has fever.\n")
    (tmp_path / "notes" / "b.jsonl").write_text('{"text": "No cough."}\n\n{"id": 7, "text": "Rash."}\n')
    lines = [json.loads(line) for line in run("predict", file, tmp_path / "notes", "--with-text").splitlines()]
    assert [(line["id"], line["text"]) for line in lines] == [
        ("a", "He has fever.\n"),
        ("1", "No cough."),
        ("7", "Rash."),
    ]
    assert all({"entities", "ungrounded", "task"} <= set(line) for line in lines)
    assert json.loads(run("predict", file, stdin="He has fever."))["id"] == "stdin"
    many = run("predict", file, "-", stdin="".join(json.dumps({"id": str(i), "text": "x"}) + "\n" for i in range(5)))
    assert [json.loads(line)["id"] for line in many.splitlines()] == list("01234")


def test_predict_closed_answers(place: Path, tmp_path: Path) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    out = tmp_path / "answers.jsonl"
    text = '{"id": "x", "text": "He has gout.", "hypothesis": "He is ill."}\n'
    run("predict", meta, "--source", "infer", "--out", out, stdin=text)
    line = json.loads(out.read_text())
    assert line["label"] in ("yes", "no") and sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("to", "name"), [("brat", "out"), ("conll", "out.conll"), ("bioc", "out.xml")])
def test_predict_writes_other_formats(place: Path, tmp_path: Path, to: str, name: str) -> None:
    run("predict", place / "find.safetensors", "--to", to, "--out", tmp_path / name, stdin="He has fever now.")
    if to == "brat":
        assert (tmp_path / name / "stdin.txt").read_text() == "He has fever now."
    else:
        assert "fever" in (tmp_path / name).read_text()


def test_inspect(place: Path, tmp_path: Path) -> None:
    meta = place / "run" / "metaprompt.safetensors"
    found = run_json("inspect", meta, "-k", 3)
    assert len(found["positions"]) == 4 and all(len(near) == 3 for near in found["positions"])
    assert found["similarity"]["tasks"] == ["find-problems", "infer"] and len(found["departures"]) == 2
    svg, page = tmp_path / "a.svg", tmp_path / "a.html"
    text = run("inspect", meta, "--plot", svg, "--html", page, "--source", "infer")
    assert "Similarity" in text and "find-problems" in text and "CC0" in text
    assert svg.read_text().startswith("<svg") and "<svg" in page.read_text()
    assert "Positions of find-problems" in run("inspect", place / "find.safetensors")


def test_data(place: Path, tmp_path: Path) -> None:
    rows = run_json("data", "list")
    assert len(rows) == 31 + 26 and {"id", "licence", "permissive", "splits"} <= set(rows[0])
    assert "ncbi-disease" in run("data", "list")
    missing = run_json("data", "verify", "mqp", "--data-dir", tmp_path, code=2)
    assert [set(row) >= {"id", "ok", "splits"} for row in missing] == [True] and not missing[0]["ok"]
    assert run_json("data", "show", "sample-events", "-n", 2)[0]["id"].startswith("sample-events-train")
    checked = run_json("data", "check", place / "find.yaml", "--backbone", "tiny")
    assert checked["ok"] and checked["labels"]["test"] == {"Problem": 6}


@pytest.mark.data
def test_verify_a_real_corpus(data_dir: Path) -> None:
    rows = run_json("data", "verify", "--data-dir", data_dir, "mqp")
    assert rows[0]["ok"] and sum(rows[0]["splits"].values()) == 3048


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    least = demo.DemoSize(8, 2, 4, 2, 1, 1, 1, 2, shots=2, adapt_steps=1, adapt_batch=1)
    monkeypatch.setattr(demo, "FAST", least)
    first = run_json("demo", "--fast", "--backbone", "tiny", "--out", tmp_path)
    assert first["synthetic"] and len(first["tasks"]) == 5
    for row in first["tasks"]:
        assert Path(row["mpt_file"]).stat().st_size == row["mpt_bytes"]
        assert {"constant", "zero-shot", "pt", "mpt"} <= set(row)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("scores.json")}
    text = run("demo", "--fast", "--backbone", "tiny", "--out", tmp_path)
    assert "synthetic" in text and "sample-events" in text
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("scores.json")} == stamps, "scores are reused"


def test_one_adapter_for_all_tasks_of_a_suite(place: Path, tmp_path: Path) -> None:
    suite, out = place / "suite.yaml", tmp_path / "together"
    options = ("--backbone", "tiny", "--method", "mtl-lora", "--rank", 2, "--steps", 2, "--limit", 8, "--out", out)
    found = run_json("learn", suite, *options, "--score", 2)
    assert [row["task"] for row in found["tasks"]] == ["find-problems", "infer"]
    assert all(0 < row["validation_loss"] < 20 and row["n"] == 2 for row in found["tasks"])
    file = out / "multitask.safetensors"
    assert found["file"] == str(file) and found["bytes"] == file.stat().st_size
    assert run_json("learn", suite, *options)["digest"] == found["digest"]
    scored = run_json("evaluate", file, place / "infer.yaml", "--task", "infer", "--limit", 3, "--write")
    assert scored["n"] == 3
    shown = run_json("inspect", file, "--task", "infer")
    assert shown["shown"] == "infer" and shown["card"]["metrics"]["test"]["infer"]["n"] == 3
    assert len(shown["changes"]) == 8 and all(line["relative"] is not None for line in shown["changes"])
    note = tmp_path / "note.txt"
    note.write_text("She has gout.", encoding="utf-8")
    assert json.loads(run("predict", file, note, "--task", "find-problems"))["task"] == "find-problems"
