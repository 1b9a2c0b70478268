"""A vLLM server of our own: started, waited for, and gone with us however we end. A program plays vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from clinprompt.cli import app
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.artifact import save_task
from clinprompt.serving import vllm_server
from clinprompt.serving.baked import open_baked
from clinprompt.serving.own_vllm import OwnVllm, bake_folder, own_server
from clinprompt.serving.vllm_server import free_port, launch
from tests.serving import fake_vllm_program
from tests.serving.adapterfiles import adapter_file
from tests.serving.baking import loaded, save_model, save_tasks
from tests.serving.world import wait_until


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter for which `-m vllm…` is our program."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{fake_vllm_program.__file__}" "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("FAKE_VLLM_RECORD", str(tmp_path / "record.json"))
    monkeypatch.setenv("VLLM_API_KEY", "of another server")
    return path


def record(place: Path) -> dict[str, Any]:
    wait_until((place / "record.json").is_file, 60)
    found: dict[str, Any] = json.loads((place / "record.json").read_text())
    return found


def gone(ids: list[int]) -> bool:
    """Whether none of these processes runs (one that nobody has asked about its end does not)."""
    return all(not (stat := Path(f"/proc/{one}/stat")).exists() or stat.read_text().split()[2] == "Z" for one in ids)


def options(port: int) -> list[str]:
    return ["--model", "m", "--port", str(port)]


def test_it_is_started_with_a_key_and_stopped_with_its_processes(python: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    server = launch(options(port), port, python=python, log=log, api_key="secret")
    known = record(tmp_path)
    assert known["arguments"] == options(port) and known["key"] == "secret"
    assert "secret" not in str(Path(f"/proc/{server.process.pid}/cmdline").read_bytes())
    assert not gone(known["ids"])
    assert "loading weights" in server.stop() == server.stop()  # twice does no harm
    assert gone(known["ids"]) and log.read_text() == "loading weights\n"


def test_without_a_key_of_its_own_it_does_not_get_that_of_another_server(python: Path, tmp_path: Path) -> None:
    port = free_port()
    launch(options(port), port, python=python).stop()
    assert record(tmp_path)["key"] is None


def test_what_it_said_at_last_is_in_the_error(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "dies")
    with pytest.raises(BackboneError, match="exit code 1") as caught:
        launch(options(1), 1, python=python)
    assert "not enough memory for the cache" in str(caught.value) and "--vllm-log" in str(caught.value)
    assert gone(record(tmp_path)["ids"])


def test_one_that_never_answers_is_ended(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "silent")
    monkeypatch.setattr(vllm_server, "TELL", 0.5)
    told: list[float] = []
    with pytest.raises(BackboneError, match="did not answer within 3 s"):
        launch(options(1), 1, python=python, seconds=3, waiting=told.append)
    assert told and told == sorted(told) and gone(record(tmp_path)["ids"])


def test_ctrl_c_while_it_starts_ends_it(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "silent")
    monkeypatch.setattr(vllm_server, "TELL", 0.0)

    def interrupted(_: float) -> None:
        if (tmp_path / "record.json").is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(options(1), 1, python=python, waiting=interrupted)
    assert gone(record(tmp_path)["ids"])


@pytest.mark.parametrize("character", ["", "stubborn"])
def test_it_does_not_outlive_a_starter_that_is_killed(
    character: str, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard notices the end of its input. (A grace of a second, so that the test is quick.)"""
    monkeypatch.setenv("FAKE_VLLM", character)
    guard = Path(vllm_server.guard.__file__).read_text().replace("GRACE = 20.0", "GRACE = 1.0")
    (tmp_path / "guard.py").write_text(guard)
    port = free_port()
    command = [sys.executable, str(tmp_path / "guard.py"), "", str(python), "-m", "vllm", *options(port)]
    starter = (
        f"import subprocess, time; subprocess.Popen({command!r}, stdin=-1, start_new_session=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", starter])
    known = record(tmp_path)
    wait_until(lambda: answers(port), 60)
    process.kill()
    process.wait()
    wait_until(lambda: gone(known["ids"]))


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("named", ["/no/such/python", None])
def test_without_vllm_the_error_says_how_to_get_it(named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm_server.PYTHON_VARIABLE, raising=False)
    with pytest.raises(BackboneError, match=r"pip install vllm.*--vllm-python"):
        vllm_server.interpreter_of(named)


def test_an_interpreter_without_vllm_is_recognised() -> None:
    with pytest.raises(BackboneError, match=r"pip install vllm"):
        launch(options(1), 1, python=sys.executable)


# --- a folder ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(tmp_path / "base", bos=True)


def test_of_a_folder_that_is_baked_which_can_be(base: Path, tmp_path: Path) -> None:
    backbone, tasks = loaded(base), tmp_path / "tasks"
    save_tasks(tasks, backbone, ("one", "two"))
    save_tasks(tasks, loaded(save_model(tmp_path / "other", seed=1)), ("foreign",))
    save_task(adapter_file(backbone, "lora", "find"), tasks / "adapter.safetensors")
    (tasks / "broken.safetensors").write_bytes(b"no task file")
    manifest = bake_folder(tasks, tmp_path / "model", backbone=str(base))
    assert manifest.names == ["one", "two"] and len(manifest.free) >= 10
    (tmp_path / "none").mkdir()
    assert bake_folder(tmp_path / "none", tmp_path / "empty", backbone=str(base)).names == []
    assert open_baked(tmp_path / "empty").text.fingerprint == backbone.fingerprint


def test_a_folder_of_another_model_is_not_served(base: Path, python: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    bake_folder(tmp_path / "tasks", tmp_path / "model", backbone=str(base))
    for wrong in (
        OwnVllm(tmp_path / "tasks", tmp_path / "model", "embedded", python=python),
        OwnVllm(tmp_path / "tasks", tmp_path / "model", str(base), "bfloat16", python=python),
    ):
        with pytest.raises(BackboneError, match="baked of"), own_server(wrong):
            pass
    with pytest.raises(ArtifactError, match="no such folder"), own_server(OwnVllm(tmp_path / "x", None, "embedded")):
        pass


@pytest.mark.parametrize("kept", [False, True])
def test_the_model_and_the_server_are_there_for_the_block(
    kept: bool, base: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, told, before = tmp_path / "tasks", list[str](), signal.getsignal(signal.SIGTERM)
    save_tasks(tasks, loaded(base), ("one",))
    own = OwnVllm(tasks, tmp_path / "model" if kept else None, str(base), python=python, told=told.append)
    with pytest.raises(SystemExit), own_server(own) as (server, folder):  # SIGTERM ends the block
        assert open_baked(folder).manifest.names == ["one"] and server.api_key == record(tmp_path)["key"]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert gone(record(tmp_path)["ids"]) and folder.exists() is kept
    assert signal.getsignal(signal.SIGTERM) == before and told[-1] == "stopping vLLM"
    if kept:
        written = (folder / "model-embedding.safetensors").stat().st_mtime_ns
        with own_server(own) as (_, again):  # what is there is taken as it is
            assert (again / "model-embedding.safetensors").stat().st_mtime_ns == written


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vllm-python", "x"], "belong to --engine vllm"),
        (["--engine", "vllm", "--url", "http://127.0.0.1:1"], "--url needs --baked"),
        (["--engine", "vllm", "--url", "http://127.0.0.1:1", "--baked", "b", "--vllm-log", "l"], "--url needs --baked"),
        (["--engine", "vllm", "--device", "cpu"], "vLLM has its own options"),
        (["--engine", "other"], "known are"),
    ],
)
def test_the_command_refuses(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinprompt.serving.running.log_to_stderr", lambda level: None)  # it is for the whole process
    run = CliRunner().invoke(app, ["serve", "--tasks", str(tmp_path), "--port", str(free_port()), *arguments])
    assert run.exit_code == 2 and said in run.stderr


@pytest.mark.slow
def test_the_command_serves_a_folder_and_leaves_nothing(
    base: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, port = tmp_path / "tasks", free_port()
    [_, two] = save_tasks(tasks, loaded(base), ("one", "two"))
    later = two.rename(tmp_path / "later.safetensors")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    command = [sys.executable, "-m", "clinprompt", "serve", "--tasks", str(tasks), "--port", str(port)]
    command += ["--engine", "vllm", "--vllm-python", str(python), "--vllm-option=--enforce-eager", "--max-batch", "7"]
    command += ["--backbone", str(base), "--no-teach"]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or ready(port), 200)
        assert process.poll() is None, (tmp_path / "serve.log").read_text()
        known = record(tmp_path)
        assert known["arguments"][-3:] == ["--max-num-seqs", "7", "--enforce-eager"] and len(known["key"]) > 30
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert [one["name"] for one in client.get("/v1/tasks").json()["tasks"]] == ["one"]
            sent = {"documents": [{"text": "a", "hypothesis": "b"}]}
            assert client.post("/v1/tasks/one/predict", json=sent).status_code == 200
            later.rename(tasks / "two.safetensors")
            wait_until(lambda: client.get("/v1/tasks/two").status_code == 200, 100)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(100)
    said = (tmp_path / "serve.log").read_text()
    assert "starting vLLM" in said and "stopping vLLM" in said and known["key"] not in said
    assert gone(known["ids"]) and not list((tmp_path / "tmp").iterdir())


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=30).status_code == 200
    except httpx.TransportError:
        return False
