"""A folder of task files and a service on it, in a test client or behind a real uvicorn on a free loopback port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import save_task
from clinprompt.serving.app import create_app
from clinprompt.serving.batching import BatchLimits
from clinprompt.serving.running import Address, server
from clinprompt.serving.service import Service
from clinprompt.serving.settings import ServerSettings
from clinprompt.serving.teaching import TeachSettings
from clinprompt.serving.transformers_engine import TransformersEngine
from tests.models import tiny
from tests.serving.taskfiles import task_files


def folder_of_tasks(place: Path, backbone: Backbone, names: tuple[str, ...] | None = None) -> Path:
    folder = place / "tasks"
    folder.mkdir(exist_ok=True)
    for name, file in task_files(backbone).items():
        if names is None or name in names:
            save_task(file, folder / f"{name}.safetensors")
    return folder


def service_on(
    folder: Path,
    settings: ServerSettings | None = None,
    *,
    backbone: Backbone | None = None,
    limits: BatchLimits | None = None,
    **parts: Any,
) -> Service:
    engine = TransformersEngine(backbone or tiny("llama", bos=True), limits)
    return Service.of_folder(folder, engine, settings, **parts)


@dataclass
class Running:
    """A server in a thread."""

    url: str
    service: Service
    server: uvicorn.Server
    thread: threading.Thread

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **settings)

    def stop(self) -> None:
        """As SIGTERM does: finish what was accepted, then end."""
        self.server.should_exit = True
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


@contextmanager
def running(
    service: Service, teach: TeachSettings | None = None, *, tls: tuple[Path, Path] | None = None
) -> Iterator[Running]:
    """`tls`: certificate and key to serve with."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    address = Address(port=port, tls_cert=tls[0] if tls else None, tls_key=tls[1] if tls else None)
    own = server(create_app(service, teach), address, seconds=service.settings.seconds)
    thread = threading.Thread(target=own.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not own.started and time.monotonic() < until:
        time.sleep(0.01)
    assert own.started
    found = Running(address.url, service, own, thread)
    try:
        yield found
    finally:
        found.stop()


def wait_until(condition: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.01)
