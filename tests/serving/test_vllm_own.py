"""The serve command with a real vLLM that it starts itself: answers as in process, new tasks, nothing left behind.

Needs an environment with vLLM: `make test-vllm` makes one and runs these tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from clinprompt.backbone.model import load_backbone
from clinprompt.prompts.artifact import save_task
from clinprompt.serving.app import create_app
from clinprompt.serving.service import Service
from clinprompt.serving.transformers_engine import TransformersEngine
from clinprompt.serving.vllm_server import PYTHON_VARIABLE, free_port
from tests.serving.taskfiles import packaged_tasks
from tests.serving.test_vllm import ASKED, TEXTS, compare, ready
from tests.serving.world import wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3600)]
LATER = "pubmedqa"


def test_the_serve_command_starts_vllm_and_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get(PYTHON_VARIABLE):
        pytest.skip(f"needs vLLM in an environment of its own: run `make test-vllm` (or set {PYTHON_VARIABLE})")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    for name in ("tmp", "tasks", "later"):
        (tmp_path / name).mkdir()
    backbone, tasks = load_backbone("embedded"), tmp_path / "tasks"
    for name, file in packaged_tasks(backbone).items():
        if name in {name for name, _ in ASKED}:
            save_task(file, tmp_path / ("later" if name == LATER else "tasks") / f"{name}.safetensors")
    documents = [{"text": text, "question": "Is it so?"} for text in TEXTS]
    port = free_port()
    command = [sys.executable, "-m", "clinprompt", "serve", "--tasks", str(tasks), "--port", str(port), "--no-teach"]
    command += ["--engine", "vllm", "--vllm-option=--enforce-eager", "--timeout", "1200"]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or ready(port), 1800)
        assert process.poll() is None, (tmp_path / "serve.log").read_text()
        (tmp_path / "later" / f"{LATER}.safetensors").rename(tasks / f"{LATER}.safetensors")
        wait_until(lambda: ready(port) and served(port, LATER), 300)
        with TestClient(create_app(Service.of_folder(tasks, TransformersEngine(backbone)))) as client:
            for name, copied in ASKED:
                body = {"constrained": copied, "documents": documents}
                found = httpx.post(f"http://127.0.0.1:{port}/v1/tasks/{name}/predict", json=body, timeout=1200).json()
                compare(found, client.post(f"/v1/tasks/{name}/predict", json=body).json(), sure=not copied)
    finally:
        process.terminate()
        process.wait(120)
    said = (tmp_path / "serve.log").read_text()
    assert "vLLM is starting" in said and "stopping vLLM" in said and not any(text in said for text in TEXTS)
    wait_until(lambda: not started_with(tmp_path / "tmp"), 30)
    assert not list((tmp_path / "tmp").glob("clinprompt-vllm-*"))


def served(port: int, task: str) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/v1/tasks/{task}", timeout=30).status_code == 200


def started_with(tmp: Path) -> list[str]:
    """The processes that were given this TMPDIR, in which they start their children, too."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={tmp}\0".encode() in (one / "environ").read_bytes():
                found.append((one / "cmdline").read_bytes().decode())
        except OSError:
            continue  # it has just ended, or is another user's
    return found
