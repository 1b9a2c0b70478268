"""`clinprompt predict --to fhir|omop` and `--also`: one command, several tasks, files that other programs read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clinprompt.backbone.model import load_backbone
from clinprompt.cli import app
from tests.doors.tasks import NER, NLI, SUM, task_file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two notes, and task files named by their tasks."""
    folder, backbone = tmp_path_factory.mktemp("doors"), load_backbone("tiny")
    for definition in (NER, NLI, SUM, {**NER, "name": "other"}):
        task_file(backbone, definition, folder / f"{definition['name']}.safetensors")
    (folder / "notes").mkdir()
    for name in ("a", "b"):
        (folder / "notes" / f"{name}.txt").write_text(f"Note {name}: no complaints.")
    return folder


def run(*arguments: object, stdin: str | None = None, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin)
    assert result.exit_code == code, (result.stderr, result.exception)
    return result.stdout, result.stderr


def test_fhir_of_two_tasks_in_a_folder(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("fhir.resources", reason="extra `fhir` is not installed")
    out = tmp_path / "bundles"
    _, remarks = run(
        *(place / "find.safetensors", place / "notes", "--also", place / "shorten.safetensors"),
        *("--to", "fhir", "--out", out),
    )
    assert sorted(p.name for p in out.iterdir()) == ["a.json", "b.json"] and "2 records" in remarks
    kinds = [e["resource"]["resourceType"] for e in json.loads((out / "a.json").read_text())["entry"]]
    assert kinds[0] == "DocumentReference" and "Observation" in kinds and kinds.count("Provenance") == 1


def test_fhir_lines_on_standard_output(place: Path) -> None:
    text = "".join(json.dumps({"id": f"n{i}", "text": "x y"}) + "\n" for i in range(3))
    out, _ = run(place / "find.safetensors", "--also", place / "other.safetensors", "--to", "fhir", stdin=text)
    assert [json.loads(line)["resourceType"] for line in out.splitlines()] == ["Bundle"] * 3


def test_omop_tables(place: Path, tmp_path: Path) -> None:
    run(place / "find.safetensors", place / "notes", "--to", "omop", "--out", tmp_path / "omop")
    with (tmp_path / "omop" / "note_ids.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["note_id", "record"], ["1", "a"], ["2", "b"]]
    assert (tmp_path / "omop" / "note_nlp.csv").is_file()


def test_lines_of_two_tasks(place: Path) -> None:
    out, _ = run(place / "find.safetensors", place / "notes", "--also", place / "shorten.safetensors", "--with-text")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["id"], line["task"]) for line in lines] == [
        ("a", "find"),
        ("a", "shorten"),
        ("b", "find"),
        ("b", "shorten"),
    ]
    assert all("no complaints" in line["text"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("find", "--to", "fihr"), "unknown format 'fihr'. Did you mean 'fhir'?"),
        (("find", "--to", "omop"), "--to omop writes a folder: name it with --out"),
        (("infer", "--to", "omop", "--out", "x"), "infer is a nli task, and NOTE_NLP holds mentions"),
        (("find", "--to", "brat", "--out", "x", "--also", "other"), "--to brat holds one task"),
        (("find", "--mapping", "x.yaml"), "--mapping belongs to --to fhir"),
        (("find", "--to", "fhir", "--mapping", "x.yaml"), "x.yaml: cannot be read"),
        (("find", "--to", "conll", "--out", "x", "--with-text"), "--with-text belongs to"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(
    place: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinprompt.backbone.model.load_backbone", None)
    files = {name: str(place / f"{name}.safetensors") for name in ("find", "infer", "other")}
    _, said = run(*(files.get(a, a) for a in arguments), place / "notes", code=2)
    assert message in said


def test_two_notes_of_one_file_name_are_refused(place: Path, tmp_path: Path) -> None:
    text = json.dumps({"id": "a/b", "text": "x"}) + "\n" + json.dumps({"id": "a_b", "text": "x"}) + "\n"
    _, said = run(place / "find.safetensors", "--to", "fhir", "--out", tmp_path / "out", stdin=text, code=2)
    assert "its name, 'a_b', is that of standard input:1 too" in said
