"""What `clinprompt serve` hands to the server it starts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from clinprompt.cli import app
from clinprompt.commands import serve
from clinprompt.serving import running
from clinprompt.serving.engine import Engine
from clinprompt.serving.transformers_engine import TransformersEngine
from clinprompt.serving.vllm_server import free_port
from tests.models import tiny


def test_what_was_accepted_has_its_whole_time_when_the_server_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[uvicorn.Server] = []
    real = running.server

    @contextmanager
    def engine(*_: Any) -> Iterator[Callable[[], Awaitable[Engine]]]:
        async def opened() -> Engine:
            return TransformersEngine(tiny("llama"))

        yield opened

    def ending(api: FastAPI, address: running.Address, **options: Any) -> uvicorn.Server:
        made.append(real(api, address, **options))
        made[0].should_exit = True  # as a signal asks it to
        return made[0]

    monkeypatch.setattr(serve, "_engine", engine)
    monkeypatch.setattr(running, "server", ending)
    monkeypatch.setattr(running, "log_to_stderr", lambda _: None)
    options = ["--tasks", str(tmp_path), "--port", str(free_port()), "--timeout", "600", "--quiet"]
    found = CliRunner().invoke(app, ["serve", *options])
    assert found.exit_code == 0, found.output
    assert made[0].config.timeout_graceful_shutdown == 630
