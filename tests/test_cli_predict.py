"""`clinprompt predict`: no answer is lost, and what cannot be read is named by its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clinprompt.cli import app
from clinprompt.evaluation.answerer import Answerer
from tests.cli_workspace import make
from tests.test_cli import LEARN, run
from tests.test_cli_errors import error, invoke


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file."""
    folder = make(tmp_path_factory.mktemp("predict"))
    out, meta = folder / "find.safetensors", folder / "run" / "metaprompt.safetensors"
    run("learn", folder / "suite.yaml", "--out", folder / "run", *LEARN)
    run("adapt", meta, folder / "find.yaml", "--shots", 0, "--score", 0, "--out", out)
    return out


@pytest.mark.parametrize(
    ("to", "name"), [("brat", "out"), ("conll", "o.conll"), ("bioc", "o.xml"), ("omop", "out"), ("fhir", "out")]
)
def test_two_notes_of_one_name(file: Path, tmp_path: Path, to: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is predicted, and nothing is written; their folder gives them names of their own."""
    notes = [tmp_path / "in" / part / "note.txt" for part in ("a", "b")]
    for path in notes:
        path.parent.mkdir(parents=True)
        path.write_text("He has fever.\n")
    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "ready", lambda _: pytest.fail("predicted before the collision was known"))
        message = error("predict", file, *notes, "--to", to, "--out", tmp_path / name)
    assert message.startswith(f"{notes[1]}: its name, 'note', is that of {notes[0]} too")
    assert not (tmp_path / name).exists()
    assert invoke("predict", file, tmp_path / "in", "--to", to, "--out", tmp_path / name).exit_code == 0
    written = {path.name for path in (tmp_path / name).iterdir()} if name == "out" else set()
    assert to != "brat" or len(written) == 4
    assert to != "fhir" or len(written) == 2


def test_names_that_one_file_system_cannot_tell_apart(file: Path, tmp_path: Path) -> None:
    lines = '{"id": "p 1", "text": "a"}\n{"id": "P_1", "text": "b"}\n'
    message = error("predict", file, "--to", "brat", "--out", tmp_path / "out", stdin=lines)
    assert message.startswith("standard input:2: its name, 'P_1', is that of standard input:1 too")
    assert len(run("predict", file, stdin=lines.replace("P_1", "p 1")).splitlines()) == 2


@pytest.mark.parametrize("also", [False, True])
def test_standard_input_that_is_no_text(file: Path, also: bool) -> None:
    more = ("--also", file) if also else ()
    result = CliRunner().invoke(app, ["predict", *map(str, (file, *more))], input=b"SECRET\nSECRET \xff\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: standard input:2: not UTF-8.") and "SECRET" not in result.stderr
