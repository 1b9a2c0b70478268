"""What a user sees when something is wrong: one message with the cure, the right exit code, no text of a note."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from clinprompt.cli import app
from tests.cli_workspace import make
from tests.test_cli import LEARN


def invoke(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def error(*arguments: object, stdin: str | None = None) -> str:
    """The message of a command that fails because of its user."""
    result = invoke(*arguments, stdin=stdin)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and not result.stdout
    return result.stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora and a metaprompt; no test here changes them."""
    folder = make(tmp_path_factory.mktemp("errors"))
    result = invoke("learn", folder / "suite.yaml", "--out", folder / "run", *LEARN)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def meta(place: Path) -> Path:
    return place / "run" / "metaprompt.safetensors"


# -- five kinds of broken task, as a new user makes them ---------------------------------------------------------------


def broken(folder: Path, change: tuple[str, str]) -> Path:
    path = make(folder) / "find.yaml"
    path.write_text(path.read_text().replace(*change))
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("labels:", "label:"), "{yaml}: unknown key `label` (known keys: "),
        (("type: ner", "type: [ner"), "{yaml}:3: not valid YAML: "),
        (("format: records", "format: brad"), "unknown format 'brad'. Did you mean 'brat'? Known: "),
        (("find-train.jsonl", "absent.jsonl"), "{folder}/absent.jsonl: no such file. Check the path."),
        (("  Problem: a symptom or a disease\n", "  Drug: a drug\n"), "task find-problems: "),
    ],
    ids=["key", "yaml", "format", "file", "labels"],
)
def test_broken_task_yaml(meta: Path, tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    yaml = broken(tmp_path, change)
    command = ("adapt", meta, yaml, "--steps", 1, "--score", 0, "--out", tmp_path / "x.safetensors")
    if "Drug" in change[1]:  # a label that no record has: trains on "none" only; `data check` is what says so
        result = invoke("data", "check", yaml, "--backbone", "none", "--json")
        report = json.loads(result.stdout)
        assert result.exit_code == 2 and not report["ok"]
        assert any("Problem" in finding["message"] or "label" in finding["message"] for finding in report["findings"])
        return
    assert error(*command).startswith(expected.format(yaml=yaml, folder=tmp_path))
    assert not (tmp_path / "x.safetensors").exists()


def test_broken_corpus_line_is_named_and_not_quoted(meta: Path, tmp_path: Path) -> None:
    yaml = make(tmp_path) / "find.yaml"
    corpus = tmp_path / "find-train.jsonl"
    lines = corpus.read_text().splitlines()
    lines[4] = lines[4].replace('"spans": [[', '"spans": [[9')
    corpus.write_text("\n".join(lines))
    message = error("adapt", meta, yaml, "--out", tmp_path / "x.safetensors")
    assert message.startswith(f"{corpus}:5: not a record: ") and "Case" not in message


# -- artifacts, names and options --------------------------------------------------------------------------------------


def test_unknown_names(meta: Path, place: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    assert error("adapt", meta, "ncbi-diseas", *out).startswith(
        "unknown task 'ncbi-diseas'. Did you mean 'ncbi-disease'?"
    )
    assert "Did you mean 'open-clinical'?" in error("learn", "open-clinica", "--backbone", "tiny", *out)
    assert "Did you mean 'infer'?" in error("predict", meta, "--source", "infr")
    assert error("evaluate", meta, "--json").startswith(
        "a metaprompt holds several tasks; name one with --task: find-p"
    )
    assert "Presets:" in error("learn", place / "suite.yaml", "--backbone", "no-such-model", *out)


def test_damaged_and_foreign_files(meta: Path, tmp_path: Path) -> None:
    assert error("inspect", tmp_path / "absent.safetensors") == f"{tmp_path / 'absent.safetensors'}: no such file"
    half = tmp_path / "half.safetensors"
    half.write_bytes(meta.read_bytes()[:100])
    assert error("evaluate", half).startswith(f"{half}: not a readable safetensors file of this library")
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(meta.read_bytes()[:-4] + b"\0\0\0\0")
    assert "the file is damaged" in error("evaluate", flipped, "--source", "infer")


def test_another_backbone_is_refused(meta: Path, place: Path, tmp_path: Path) -> None:
    from clinprompt.backbone.model import load_backbone

    other = load_backbone("tiny")
    with torch.no_grad():
        other.model.get_input_embeddings().weight.mul_(1.5)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    arguments = ("adapt", meta, place / "find.yaml", "--out", tmp_path / "x.safetensors")
    assert "made for backbone 'tiny'" in error(*arguments, "--backbone", tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--method", "lorra"), "settings: `method`: Input should be 'mpt', 'pt', 'spot', 'prefix', 'lora', 'full', "),
        (("--method", "pt", "--mode", "full"), "--mode belongs to --method mpt; pt does not have it. Leave it out."),
        (
            ("--method", "full", "--rank", "4"),
            "--rank belongs to --method lora, lora+prefix, peml; full does",
        ),
        (("--method", "lora", "--targets", "query"), "targets: no linear layer is called 'query'. Known: "),
        (("--prompt-length", "9"), "--prompt-length belongs to --method pt, prefix, lora+prefix, peml; mpt does not"),
        (("--mode", "half"), "settings: `mode`: Input should be 'full', 'vectors', 'group', 'shared' or 'frozen'"),
        (("--vector-learning-rate", "0.1"), "--vector-learning-rate: mode frozen trains no vectors."),
        (("--method", "lora", "--own-length", "4"), "--own-length belongs to --method mpt, pt; lora does not have it."),
        (("--mode", "vectors", "--own-length", "4"), "mode vectors keeps u and v alone: leave `own_length` out"),
        (("--learning-rate", "-1"), "settings: `loop.learning_rate`: Input should be greater than 0"),
        (("--start", "nobody"), "unknown source task 'nobody'. Known: find-problems, infer."),
        (("--quantise", "8bit"), "--quantise 8bit: only 4bit is known."),
        (("--config", "absent.yaml"), "absent.yaml: no such configuration file"),
    ],
)
def test_no_option_is_ignored(
    meta: Path, place: Path, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    message = error("adapt", meta, place / "find.yaml", "--steps", 1, "--out", tmp_path / "x.safetensors", *arguments)
    assert message.startswith(expected)


def test_a_start_that_is_no_source_is_refused_in_a_dry_run(meta: Path, place: Path, tmp_path: Path) -> None:
    command = ("adapt", meta, place / "find.yaml", "--dry-run", "--flops-per-second", "1e9", "--out", tmp_path / "x.st")
    assert error(*command, "--start", "bogus").startswith("unknown source task 'bogus'. Known: find-problems, infer.")
    for start in ("infer", "mean", "best", "similar"):
        assert invoke(*command, "--method", "spot", "--start", start).exit_code == 0


def test_a_task_inside_what_holds_one_or_none(meta: Path, place: Path, tmp_path: Path) -> None:
    (file,) = _task_file(meta, place, tmp_path)
    for arguments, said in (
        ((file, place / "infer.yaml"), "this is the file of one task, 'find-problems': leave it out."),
        ((file,), "this is the file of one task, 'find-problems': leave it out."),
        (("zero-shot", place / "infer.yaml"), "zero-shot uses no file: leave it out."),
        (("zero-shot", place / "infer.yaml", "--in-context", 1), "zero-shot uses no file: leave it out."),
    ):
        message = error("evaluate", *arguments, "--task", "foo")
        assert message.startswith("--task (or --source) foo: ") and said in message
    assert "this is the file of one task" in error("predict", file, "--task", "foo", stdin="x")


@pytest.mark.parametrize(
    ("content", "files", "said"),
    [
        ("text,hypothesis,label\n", "{train: data.csv}", "Empty, or a header and nothing else: data.csv."),
        (None, "{test: data.csv}", "Name `train` under `files`."),
    ],
)
def test_no_training_records(meta: Path, tmp_path: Path, content: str | None, files: str, said: str) -> None:
    (tmp_path / "data.csv").write_text(content or "text,hypothesis,label\na,b,x\n")
    yaml = tmp_path / "t.yaml"
    yaml.write_text(f"name: t\ntype: nli\nlabels: [x, y]\nformat: csv\nfiles: {files}\n")
    assert error("adapt", meta, yaml, "--out", tmp_path / "x") == f"task t: no training records. {said}"
    if content:
        report = json.loads(invoke("data", "check", yaml, "--backbone", "none", "--json").stdout)
        assert [f["places"] for f in report["findings"] if f["code"] == "empty-split"] == [["data.csv"]]


def test_methods_that_need_a_metaprompt(place: Path, tmp_path: Path) -> None:
    message = error("adapt", "none", place / "find.yaml", "--method", "spot", "--out", tmp_path / "x.safetensors")
    assert message.startswith(
        "`none` instead of a metaprompt needs --method pt, prefix, lora, lora+prefix, peml or full"
    )


def test_examples_stand_before_the_bare_instruction(meta: Path, place: Path) -> None:
    assert "FILE must be zero-shot" in error("evaluate", meta, "--source", "infer", "--in-context", 2)
    assert "--draw chooses the examples" in error("evaluate", "zero-shot", place / "infer.yaml", "--draw", 2)


def test_outputs_that_cannot_be(meta: Path, place: Path, tmp_path: Path) -> None:
    tasks = (place / "find.yaml", place / "infer.yaml")
    assert "written into a folder" in error("adapt", meta, *tasks, "--out", tmp_path / "x.safetensors")
    assert "is a folder" in error("adapt", meta, tasks[0], "--out", tmp_path)
    assert "name it with --out" in error("predict", meta, "--source", "infer", "--to", "brat")
    assert "unknown format 'xml'" in error("predict", meta, "--source", "infer", "--to", "xml")
    assert "one task" in error("inspect", *_task_file(meta, place, tmp_path), "--plot", tmp_path / "a.svg")


def _task_file(meta: Path, place: Path, tmp_path: Path) -> tuple[Path]:
    out = tmp_path / "task.safetensors"
    assert invoke("adapt", meta, place / "find.yaml", "--shots", 0, "--score", 0, "--out", out).exit_code == 0
    return (out,)


def test_vectors_find_their_metaprompt(meta: Path, place: Path, tmp_path: Path) -> None:
    """A file of vectors remembers where its metaprompt lies; moved away, it says what is missing."""
    out = place / "vectors.safetensors"
    arguments = ("--mode", "vectors", "--steps", 1, "--score", 0, "--out", out)
    assert invoke("adapt", meta, place / "infer.yaml", *arguments).exit_code == 0
    assert invoke("evaluate", out, place / "infer.yaml", "--limit", 1).exit_code == 0
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(out.read_bytes())
    assert "needs the metaprompt" in error("evaluate", moved, place / "infer.yaml")
    assert invoke("evaluate", moved, place / "infer.yaml", "--limit", 1, "--metaprompt", meta).exit_code == 0
    absent = tmp_path / "absent.safetensors"
    for file in (moved, out):
        message = error("evaluate", file, place / "infer.yaml", "--metaprompt", absent)
        assert message == f"{absent}: no such file (named as a metaprompt)."


def test_vectors_on_a_metaprompt_named_by_its_folder(meta: Path, place: Path, tmp_path: Path) -> None:
    out = place / "elsewhere" / "vectors.safetensors"
    arguments = ("--mode", "vectors", "--steps", 1, "--score", 0, "--out", out)
    assert invoke("adapt", meta.parent, place / "infer.yaml", *arguments).exit_code == 0
    assert invoke("evaluate", out, place / "infer.yaml", "--limit", 1).exit_code == 0
    message = error("adapt", tmp_path, place / "infer.yaml", "--out", tmp_path / "x.safetensors")
    assert message.startswith(f"{tmp_path}: is a folder without metaprompt.safetensors.")


@pytest.mark.parametrize("device", ["foo", "cuda", "cuda:7", "mps", "meta", "cpu:x"])
def test_devices_that_are_not_here(
    meta: Path, place: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    message = error("adapt", meta, place / "find.yaml", "--device", device, "--out", tmp_path / "x.safetensors")
    assert message.startswith(f"device {device!r} is not here. PyTorch ") and message.endswith("one of: cpu, auto.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"text": "He has gout."}\n', "standard input:1: record '1': the task 'infer' needs `hypothesis`"),
        ('{"text": "SECRET", "hypothesis": 5}\n', "standard input:1: not a record: `hypothesis` is not a string"),
        ('{"text": "SECRET"\n', "standard input:1: not JSON at column "),
        ('{"txt": "SECRET"}\n', "standard input:1: not a record: unknown key `txt`"),
        ("SECRET note", "standard input: record 'stdin': the task 'infer' needs `hypothesis`"),
    ],
)
def test_unusable_inputs(meta: Path, text: str, expected: str) -> None:
    message = error("predict", meta, "--source", "infer", stdin=text)
    assert message.startswith(expected) and "SECRET" not in message


# -- interruptions and defects -----------------------------------------------------------------------------------------


def test_interrupted_and_continued(meta: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clinprompt.training import loop

    command = ("adapt", meta, place / "infer.yaml", "--steps", 4, "--score", 0, "--out", tmp_path / "cut.safetensors")
    step, calls = loop._train_step, iter(range(100))

    def stop_at_the_third(*arguments: Any) -> float:
        if next(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(loop, "_train_step", stop_at_the_third)
    result = invoke(*command)
    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted. The same command continues where it stopped."
    assert [p.name for p in tmp_path.iterdir()] == [".cut.safetensors.checkpoint.safetensors"]
    monkeypatch.setattr(loop, "_train_step", step)
    assert invoke(*command).exit_code == 0
    whole = tmp_path / "whole" / "cut.safetensors"
    assert invoke(*command[:-1], whole).exit_code == 0
    assert (tmp_path / "cut.safetensors").read_bytes() == whole.read_bytes()


def test_a_defect_shows_no_text(meta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clinprompt.evaluation import answerer

    def fails(*_: Any) -> None:
        raise RuntimeError("SECRET note text")

    monkeypatch.setattr(answerer, "task_codec", fails)
    text = '{"text": "SECRET", "hypothesis": "SECRET"}\n'
    result = invoke("predict", meta, "--source", "infer", stdin=text)
    assert result.exit_code == 1 and "internal error: RuntimeError" in result.stderr
    assert "SECRET" not in result.output


def test_wrong_usage() -> None:
    assert invoke("lern").exit_code == 2
    assert invoke("adapt").exit_code == 2
    assert invoke("evaluate", "x", "--limit", "none").exit_code == 2
