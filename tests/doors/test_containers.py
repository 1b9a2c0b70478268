"""What can be checked of Dockerfile and compose.yaml without an engine: flags, user, ports, and the health check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import typer
import yaml

from clinprompt.cli import app
from clinprompt.version import __version__

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def listed(instruction: str) -> list[str]:
    """The exec form of the last such instruction."""
    found: list[str] = json.loads(re.findall(rf"^\s*{instruction} (\[.*\])$", DOCKERFILE, re.M)[-1])
    return found


def flags(verb: str) -> set[str]:
    """Long options of a verb."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


@contextmanager
def server(status: int) -> Iterator[int]:
    """A plain HTTP server whose /health answers `status`."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Health) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port
        running.shutdown()


def test_commands_use_options_that_exist() -> None:
    default, composed = listed("CMD"), COMPOSE["services"]["clinprompt"]["command"]
    for command in (default, composed):
        assert command[0] == "serve"
        assert {word for word in command if word.startswith("--")} <= flags("serve")
    assert "--insecure-http" not in default and {"--tls-cert", "--tls-key", "--api-keys"} <= set(default)
    assert "--api-keys" in composed
    baking = COMPOSE["services"]["bake"]["entrypoint"][-1]
    assert set(re.findall(r"--\w+", baking)) <= flags("bake")


def test_vllm_serves_what_was_baked_in_its_precision() -> None:
    """`bake` refuses a folder that exists, as a mounted one does, and vLLM computes float32 in 16 bits unless told."""
    baking, serving = COMPOSE["services"]["bake"], COMPOSE["services"]["vllm"]
    script = baking["entrypoint"][-1]
    options = dict(zip(serving["command"][::2], serving["command"][1::2], strict=True))
    mounts = {volume.split(":")[1] for service in (baking, serving) for volume in service["volumes"]}
    out, dtype = (re.search(rf"{flag} (\S+)", script) for flag in ("--out", "--dtype"))
    assert out is not None and out[1] == options["--model"] and out[1] not in mounts
    assert str(Path(out[1]).parent) in mounts and f"test -f {out[1]}/clinprompt.json ||" in script
    assert dtype is not None and dtype[1] == options["--dtype"]


def test_unprivileged_and_on_loopback() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.M)[-1] == "10001"
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert COMPOSE["services"]["clinprompt"]["read_only"] and COMPOSE["services"]["clinprompt"]["cap_drop"] == ["ALL"]
    images = {s["image"] for s in COMPOSE["services"].values()}
    assert {i for i in images if i.startswith("clinprompt")} == {f"clinprompt:{__version__}"}


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
    names = {name for line in copied for name in line.split()}
    assert names == kept and all((ROOT / name).exists() for name in names)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_tells(status: int | None, code: int) -> None:
    program = listed(r'CMD(?= \["python)')[2]
    assert "'127.0.0.1', 8000" in program
    with server(status or 200) as port:
        asked = port if status else 9  # the discard service: nothing listens
        assert subprocess.run([sys.executable, "-c", program.replace("8000", str(asked))]).returncode == code
