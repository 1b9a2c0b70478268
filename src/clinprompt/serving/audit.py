"""Who asked which task when: one JSON line a request, never the input.

Inputs are told apart by HMAC-SHA-256 under a secret of this installation: with the secret, the owner of a note can show
that it was asked about; without, nobody can guess a note from its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from clinprompt.errors import ClinpromptError


class AuditError(ClinpromptError):
    """An audit log that cannot be written, or whose secret is not one."""


class Audit:
    """An append-only log. The secret lies beside it (`FILE.secret`), made at first use, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._secret = _secret(path.with_name(path.name + ".secret"))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise AuditError(
                f"{path}: cannot be written ({error.strerror}). Name a file in a folder of yours."
            ) from None
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")

    def fingerprint(self, text: str) -> str:
        """What stands for an input."""
        return hmac.new(self._secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def write(self, *, request: str, key: str, tasks: Sequence[str], inputs: Sequence[str], outcome: str) -> None:
        """Append a line and flush it. `inputs` are the texts; only their fingerprints are written."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request": request,
            "key": key,
            "tasks": list(tasks),
            "inputs": [self.fingerprint(text) for text in inputs],
            "outcome": outcome,
        }
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _secret(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            found = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except ValueError:
            found = b""
        if len(found) != 32:
            raise AuditError(f"{path}: is not a secret (64 hexadecimal digits). Restore it, or delete it.") from None
        return found
    except OSError as error:
        raise AuditError(f"{path}: cannot be written ({error.strerror}). Name a file in a folder of yours.") from None
    secret = secrets.token_bytes(32)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret.hex() + "\n")
    return secret
