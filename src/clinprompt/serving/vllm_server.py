"""A vLLM server for a baked model as a process of ours: the right options, and nothing told to anyone."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from clinprompt.errors import BackboneError
from clinprompt.serving.baked_manifest import read_manifest

PYTHON_VARIABLE = "CLINPROMPT_VLLM_PYTHON"
BLOCK = 32  # tokens of a cached block; the CPU backend takes multiples of 32


@dataclass
class VllmServer:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    def stop(self, seconds: float = 20.0) -> None:
        """Ask it to end, then end it, with the processes it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def arguments(folder: Path, port: int, *, extra: tuple[str, ...] = ()) -> list[str]:
    """The options vLLM needs to answer as the in-process path does."""
    manifest = read_manifest(folder)
    return [
        *("--model", str(folder), "--served-model-name", folder.resolve().name),
        # Without it vLLM computes a float32 model in 16 bits.
        *("--dtype", manifest.dtype),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--enable-prefix-caching", "--block-size", str(BLOCK)),
        *extra,
    ]


def start(
    folder: Path,
    *,
    python: Path | str | None = None,
    port: int | None = None,
    extra: tuple[str, ...] = (),
    log: Path | None = None,
    seconds: float = 900.0,
) -> VllmServer:
    """Start a server on this machine and wait until it answers.

    `python`: the interpreter of an environment that has vLLM (default: `CLINPROMPT_VLLM_PYTHON`, else this one).
    `log`: a file for what it prints (it prints no requests); default: discarded. It listens on the loopback address
    and may be told to read its weights anew, which is how tasks are added to it. Raises BackboneError if it ends or
    never answers.
    """
    where = port or free_port()
    return launch(arguments(folder, where, extra=extra), where, python=python, log=log, seconds=seconds)


def launch(
    options: Sequence[str],
    port: int,
    *,
    python: Path | str | None = None,
    log: Path | None = None,
    seconds: float = 900.0,
) -> VllmServer:
    """Start vLLM's server with these options (the port among them) and wait until it answers; see `start`."""
    interpreter = str(python or os.environ.get(PYTHON_VARIABLE) or sys.executable)
    if interpreter == sys.executable and importlib.util.find_spec("vllm") is None:
        raise BackboneError(
            "vLLM is not installed here. Install it in an environment of its own and name its interpreter in "
            f"{PYTHON_VARIABLE}, or start it yourself and give --url."
        )
    command = [interpreter, "-m", "vllm.entrypoints.openai.api_server", *options]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1"}
    # Its environment has packages of its own: ours must not be found there.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")} | quiet
    sink = log.open("wb") if log else subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
    server = VllmServer(f"http://127.0.0.1:{port}", process)
    try:
        _await(server, seconds, log)
    except BaseException:
        server.stop()
        raise
    return server


def _await(server: VllmServer, seconds: float, log: Path | None) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.process.poll() is not None:
            hint = f" See {log}." if log else " Give it a log file to see why."
            raise BackboneError(f"vLLM ended while starting (exit code {server.process.returncode}).{hint}")
        try:
            if httpx.get(server.url + "/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise BackboneError(f"vLLM did not answer within {seconds:.0f} s.")


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
