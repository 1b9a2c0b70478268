"""A canary passes through the server in every way a request can go, and turns up nowhere but in its own answer.

The server is the real command in a process of its own, so that everything it writes can be read: standard output and
error, the audit log, the metrics, and every error body.
"""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from clinprompt.backbone.model import load_backbone
from clinprompt.prompts.artifact import save_task
from clinprompt.serving.running import log_to_stderr
from tests.serving.taskfiles import task_file

CANARY = "Zebulon Quackenbush"
SLUG = "zebulon-quackenbush"
TRACES = re.compile("zebulon|quackenbush", re.IGNORECASE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def requests_with_canary(client: httpx.Client) -> list[httpx.Response]:
    """Every kind of request that must end in an error, with the canary at every place a client can write."""
    json_type = {"Content-Type": "application/json"}
    predict, chat = "/v1/tasks/entities/predict", "/v1/chat/completions"
    found = [
        client.post(predict, content=f'{{"documents": ["{CANARY}"', headers=json_type),
        client.post(predict, content=CANARY.encode(), headers=json_type),
        client.post(predict, content=CANARY.encode(), headers={"Content-Type": "text/plain"}),
        client.post(predict, content=CANARY.encode("utf-16"), headers=json_type),
        client.post(predict, json={"documents": CANARY}),
        client.post(predict, json={"documents": [[CANARY]]}),
        client.post(predict, json={CANARY: 1, "documents": [{"text": CANARY, SLUG: CANARY}]}),
        client.post(predict, json={"documents": [{"text": 7, "id": CANARY}]}),
        client.post(predict, json={"documents": [{"id": CANARY * 20, "text": "x"}]}),
        client.post(predict, json={"documents": [CANARY] * 5}),
        client.post(predict, json={"documents": [CANARY * 500]}),
        client.post(predict, json={"documents": [CANARY * 5000]}),
        client.post(predict, json={"documents": [CANARY], "constrained": CANARY}),
        client.post("/v1/tasks/follows/predict", json={"documents": [{"id": CANARY, "text": CANARY}]}),
        client.post("/v1/tasks/treats/predict", json={"documents": [{"text": CANARY, "entities": [
            {"id": CANARY, "type": CANARY, "spans": [[5, 2]]}]}]}),
        client.post("/v1/tasks/treats/predict", json={"documents": [{"text": CANARY, "entities": [
            {"id": CANARY, "type": CANARY, "spans": [[0, 2000]]}]}]}),
        client.post(f"/v1/tasks/{SLUG}/predict", json={"documents": [CANARY]}),
        client.get(f"/v1/{SLUG}", params={"note": CANARY}),
        client.get(f"/v1/tasks/{SLUG}", headers={"X-Note": CANARY, "User-Agent": CANARY}),
        client.request(SLUG.upper().replace("-", ""), "/v1/tasks"),
        client.put(f"/v1/tasks/{SLUG}", content=CANARY.encode()),
        client.delete(f"/v1/tasks/{SLUG}"),
        client.post("/v1/completions", json={"model": SLUG, "prompt": CANARY}),
        client.post("/v1/completions", json={"model": "entities", "prompt": [[CANARY]]}),
        client.post("/v1/completions", json={"model": "entities", "prompt": CANARY, "logit_bias": {SLUG: 1}}),
        client.post("/v1/completions", json={"model": "entities", "prompt": CANARY * 60, "stream": True}),
        client.post(chat, json={"model": "entities", "messages": [{"role": CANARY, "content": CANARY}]}),
        client.post(chat, json={"model": "follows", "messages": [{"role": "user", "content": CANARY}]}),
    ]  # fmt: skip
    return found


def answered_requests(client: httpx.Client) -> list[httpx.Response]:
    chat = {"model": "entities", "messages": [{"role": "user", "content": CANARY}], "user": CANARY}
    return [
        client.post("/v1/tasks/entities/predict", json={"documents": [{"id": CANARY, "text": f"{CANARY} has gout."}]}),
        client.post("/v1/completions", json={"model": "entities", "prompt": CANARY, "stop": CANARY}),
        client.post("/v1/chat/completions", json=chat),
        client.post("/v1/chat/completions", json=chat | {"stream": True}),
        client.post("/v1/chat/completions", json=chat | {"response_format": {"type": "json_object"}}),
    ]


def raw_requests(port: int) -> list[bytes]:
    """What is no proper HTTP, and clients that leave in the middle."""
    whole = f'{{"documents": ["{CANARY}"]}}'.encode()
    head = b"POST /v1/tasks/entities/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    bytes_sent = [
        f"{CANARY}\r\n\r\n".encode(),
        f"GET /{SLUG}\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        head + b"Content-Length: 4000\r\n\r\n" + whole,
        head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole,
        head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + whole,
        head
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%s\r\n" % (len(whole), whole) for _ in range(900)),
    ]
    answers = []
    for content in bytes_sent:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(content)
            connection.settimeout(0.3)
            try:
                answers.append(connection.recv(65536))
            except TimeoutError:
                answers.append(b"")
    return answers


@pytest.mark.parametrize("debugging", [False, True])
def test_the_canary_is_nowhere(tmp_path: Path, debugging: bool) -> None:
    backbone = load_backbone("tiny")
    folder = tmp_path / "tasks"
    folder.mkdir()
    torch.manual_seed(0)
    for name, kind, more in (("entities", "ner", {"labels": ["Drug"]}), ("follows", "nli", {"labels": ["yes", "no"]}),
                             ("treats", "relation", {"labels": ["treats"]})):  # fmt: skip
        save_task(task_file(backbone, name, kind, **more), folder / f"{name}.safetensors")
    port, audit = free_port(), tmp_path / "audit.jsonl"
    command = [sys.executable, "-m", "clinprompt", "serve", "--tasks", str(folder), "--port", str(port), "--audit",
               str(audit), "--max-documents", "4", "--max-tokens", "2000", "--max-body", "50000"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if debugging:
        environment |= {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "default"}
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=tmp_path, env=environment)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_for(client)
                answered = answered_requests(client)
                assert [one.status_code for one in answered] == [200] * len(answered)
                refused = requests_with_canary(client)
                raw = raw_requests(port)
                metrics = client.get("/metrics").text
                time.sleep(0.3)
        finally:
            process.terminate()
            assert process.wait(timeout=60) in (0, -15)
    assert all(400 <= one.status_code < 500 or "text/event-stream" in one.headers["Content-Type"] for one in refused)
    told = [one.text + repr(one.headers) for one in refused] + [one.decode("latin-1") for one in raw[:3]] + [metrics]
    assert [text for text in told if TRACES.search(text)] == []
    log = (tmp_path / "err").read_text()
    assert log.count("/v1/tasks/{names}/predict") > 10 and len(audit.read_text().splitlines()) >= 5
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in written if TRACES.search(path.read_bytes().decode("latin-1"))] == []
    assert " met a defect" not in log


def wait_for(client: httpx.Client) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """What `log_to_stderr` changes for the whole process is as before."""
    root, told = logging.getLogger(), logging.raiseExceptions
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", "clinprompt")}
    yield
    logging.raiseExceptions, root.handlers[:] = told, handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_log_that_cannot_be_written_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, logging_restored: None
) -> None:
    """Python would print the exception under way, with its message, beside the one of the closed stream."""
    gone = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", gone)
        log_to_stderr()
    gone.close()
    try:
        raise ValueError(f"cannot read {CANARY}")
    except ValueError:
        logging.getLogger("clinprompt.serving").exception("met a defect")
    assert capsys.readouterr().err == ""


def test_a_defect_is_logged_without_what_it_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exceptions carry values in their messages; a defect of ours must not print them."""
    from fastapi.testclient import TestClient

    from clinprompt.serving import prediction_routes
    from clinprompt.serving.app import create_app
    from clinprompt.serving.running import LOG_FORMAT, Terse
    from tests.models import tiny
    from tests.serving.world import folder_of_tasks, service_on

    async def broken(*_: object, **__: object) -> None:
        raise ValueError(f"cannot read {CANARY}")

    monkeypatch.setattr(prediction_routes, "answer", broken)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Terse(LOG_FORMAT))
    logging.getLogger("clinprompt.serving").addHandler(handler)
    backbone = tiny("llama", bos=True)
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    try:
        with TestClient(create_app(service_on(folder, backbone=backbone))) as client:
            found = client.post("/v1/tasks/entities/predict", json={"documents": [CANARY]})
            assert found.status_code == 500 and not TRACES.search(found.text)
            assert "clinprompt_defects_total 1.0" in client.get("/metrics").text
    finally:
        logging.getLogger("clinprompt.serving").removeHandler(handler)
    written = capsys.readouterr()
    assert "met a defect: ValueError at broken" in written.err and not TRACES.search(written.err + written.out)
