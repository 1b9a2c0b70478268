"""A vLLM server for a baked model as a process of ours: the right options, and nothing told to anyone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import httpx

from clinprompt.errors import BackboneError
from clinprompt.serving import guard
from clinprompt.serving.baked_manifest import read_manifest
from clinprompt.serving.guard import GRACE

PYTHON_VARIABLE = "CLINPROMPT_VLLM_PYTHON"
BLOCK = 32  # tokens of a cached block; the CPU backend takes multiples of 32
SECONDS = 1800.0  # large weights come from slow disks
TELL = 10.0  # seconds between two calls of `waiting`
CURE = (
    "Install it in an environment of its own (`python -m venv vllm && vllm/bin/pip install vllm`; where there is no "
    "GPU: docs/serving.md, or `make test-vllm`, whose .venv-vllm can be used) and name its "
    f"interpreter with --vllm-python or in {PYTHON_VARIABLE}, or start vLLM yourself and give --url."
)
HINT = "--vllm-log FILE keeps all that it says, --vllm-option passes it an option (too little memory: --max-model-len)."


@dataclass
class VllmServer:
    """A running server. `process` guards it: it ends with us, whatever becomes of us (see `guard`)."""

    url: str
    process: subprocess.Popen[bytes]
    api_key: str | None = None

    def stop(self, seconds: float = 3 * GRACE) -> str:
        """Ask it to end, then end it, with the processes it started. Returns the last lines of what it printed."""
        try:
            said, _ = self.process.communicate(timeout=seconds)  # closes the guard's input
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):  # it has ended this moment
                os.killpg(self.process.pid, signal.SIGKILL)
            said, _ = self.process.communicate()
        return said.decode(errors="replace").strip()


def arguments(folder: Path, port: int, *, extra: tuple[str, ...] = ()) -> list[str]:
    """The options vLLM needs to answer as the in-process path does."""
    manifest = read_manifest(folder)
    return [
        *("--model", str(folder), "--served-model-name", folder.resolve().name),
        # Without it vLLM computes a float32 model in 16 bits.
        *("--dtype", manifest.dtype),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--enable-prefix-caching", "--block-size", str(BLOCK)),
        "--disable-uvicorn-access-log",
        *extra,
    ]


def start(folder: Path, *, port: int | None = None, extra: tuple[str, ...] = (), **how: Unpack[How]) -> VllmServer:
    """Start a server for a baked model on this machine and wait until it answers; `how` is explained at `How`.

    It listens on the loopback address and may be told to read its weights anew, which is how tasks are added to it.
    Raises BackboneError if it ends or never answers.
    """
    where = port or free_port()
    return launch(arguments(folder, where, extra=extra), where, **how)


class How(TypedDict, total=False):
    """`python`: the interpreter of an environment that has vLLM (default: `CLINPROMPT_VLLM_PYTHON`, else this one).

    `log`: a file for what it prints (it prints no requests); default: discarded, but for the last lines in an error.
    `seconds`: to wait for it. `api_key`: what it wants of those who ask; it is not seen among the processes. `waiting`
    is called every few seconds of the wait with the seconds so far.
    """

    python: Path | str | None
    log: Path | None
    seconds: float
    api_key: str | None
    waiting: Callable[[float], None]


def launch(options: Sequence[str], port: int, **how: Unpack[How]) -> VllmServer:
    """Start vLLM's server with these options (the port among them) and wait until it answers; see `start`."""
    interpreter = interpreter_of(how.get("python"))
    log, api_key = how.get("log"), how.get("api_key")
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1"}
    # Its environment has packages of its own: ours must not be found there. Nor is our key that of another server.
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VLLM_API_KEY")}
    environment = kept | quiet | ({"VLLM_API_KEY": api_key} if api_key else {})
    command = [interpreter, "-m", "vllm.entrypoints.openai.api_server", *options]
    guarded = [sys.executable, "-I", guard.__file__, str(log or ""), *command]
    process = subprocess.Popen(
        guarded, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    server = VllmServer(f"http://127.0.0.1:{port}", process, api_key)
    try:
        _await(server, interpreter, how.get("seconds", SECONDS), how.get("waiting"))
    except BaseException:
        server.stop()
        raise
    return server


def interpreter_of(python: Path | str | None = None) -> str:
    """The interpreter that has vLLM: the one given, else that of `CLINPROMPT_VLLM_PYTHON`, else this one.

    Raises BackboneError telling how to get one.
    """
    named = python or os.environ.get(PYTHON_VARIABLE)
    if named is None and importlib.util.find_spec("vllm") is None:
        raise BackboneError(f"vLLM is not installed here. {CURE}")
    found = shutil.which(str(named or sys.executable))
    if found is None:
        raise BackboneError(f"{named}: no interpreter that can be run. {CURE}")
    return found


def _await(server: VllmServer, interpreter: str, seconds: float, waiting: Callable[[float], None] | None) -> None:
    began = told = time.monotonic()
    while time.monotonic() - began < seconds:
        if server.process.poll() is not None:
            code, said = server.process.returncode, server.stop()
            cure = CURE if "No module named" in said and "vllm" in said else HINT
            raise BackboneError(
                f"vLLM ({interpreter}) ended while starting (exit code {code}). {cure} It said at last:\n{said}"
            )
        try:
            if httpx.get(server.url + "/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
        if waiting is not None and time.monotonic() - told >= TELL:
            told = time.monotonic()
            waiting(told - began)
    said = server.stop()
    raise BackboneError(f"vLLM ({interpreter}) did not answer within {seconds:.0f} s. {HINT} It said at last:\n{said}")


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
