"""uvicorn around the application: addresses, TLS, logs, and a shutdown that finishes what was accepted."""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from clinprompt.errors import ClinpromptError

GRACE_SECONDS = 30  # at the end, beyond what a request may take: reading it, and writing the answer down
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class ServeError(ClinpromptError):
    """An address, key or certificate that cannot be served with."""


@dataclass(frozen=True)
class Address:
    """Where to listen, and how safely."""

    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"


def require_safe(address: Address, *, keys: bool, insecure: bool) -> None:
    """Refuse to serve notes to a network without keys, or in the clear unless that was asked for. Raises ServeError."""
    if (address.tls_cert is None) != (address.tls_key is None):
        raise ServeError("--tls-cert and --tls-key belong together: give both.")
    for path in (address.tls_cert, address.tls_key):
        if path is not None and not path.is_file():
            raise ServeError(f"{path}: no such file.")
    if address.local:
        return
    if not keys:
        raise ServeError(
            f"--host {address.host}: other machines could ask. Make a key with `clinprompt serve-key keys.json NAME` "
            "and give --api-keys keys.json."
        )
    if address.tls_cert is None and not insecure:
        raise ServeError(
            f"--host {address.host}: notes would cross the network in the clear. Give --tls-cert and --tls-key, or "
            "--insecure-http if something in front of this server does TLS."
        )


def bound(address: Address) -> socket.socket:
    """A listening socket, so that a taken port is an error before a model is loaded. Raises ServeError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((address.host, address.port))
    except OSError as error:
        found.close()
        raise ServeError(
            f"{address.host}:{address.port} cannot be listened on ({error.strerror}). Choose another --port or --host."
        ) from None
    return found


def server(app: FastAPI, address: Address, *, seconds: float) -> uvicorn.Server:
    """A uvicorn server that logs no paths and at its end lets requests finish, which may take `seconds` each. Its own
    lines go to the logger `uvicorn.error`."""
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        ssl_certfile=address.tls_cert,
        ssl_keyfile=address.tls_key,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(seconds) + GRACE_SECONDS,
        lifespan="on",
    )
    return uvicorn.Server(config)


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line an event on standard error. Libraries speak from warnings on: their debug lines might quote requests.

    When a line cannot be written (a closed pipe, a full disk) nothing is said about it: Python's own report prints the
    exceptions that were under way, and their messages may hold what a client sent.
    """
    logging.raiseExceptions = False
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(Terse(LOG_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("clinprompt").setLevel(level)
    logging.getLogger("uvicorn.error").setLevel(level)


class Terse(logging.Formatter):
    """Lines without tracebacks: the message of an exception may hold what a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        error: Any = record.exc_info[1] if record.exc_info else None
        record.exc_info, record.exc_text, record.stack_info = None, None, None
        line = super().format(record)
        return f"{line} ({type(error).__name__})" if error is not None else line
