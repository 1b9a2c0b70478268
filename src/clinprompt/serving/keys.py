"""API keys: made once, shown once, kept as hashes, limited in their rate.

A key is 32 random bytes, so one SHA-256 is enough to keep it (there is nothing to guess); comparison takes constant
time. The file is JSON with an id, the hash, what the key may do and how often.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clinprompt.errors import ClinpromptError

Scope = Literal["predict", "manage"]
PREFIX = "cp-"


class KeyFileError(ClinpromptError):
    """A key file that cannot be read, or an id that is taken."""


class KeyEntry(BaseModel):
    """One key as it is kept. `manage`: add and remove tasks, read metrics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = ("predict",)
    requests_per_minute: int = Field(default=600, ge=1)
    created: str = ""


class KeyFile(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[KeyEntry, ...] = ()


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def load_keys(path: Path) -> KeyFile:
    """Read a key file. Raises KeyFileError with the cure."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such file. Make one with `clinprompt serve-key {path} NAME`.") from None
    except (ValidationError, UnicodeDecodeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not UTF-8"
        raise KeyFileError(f"{path}: not a key file ({reason}). Make it with `clinprompt serve-key`.") from None


def create_key(path: Path, name: str, *, scopes: tuple[Scope, ...] = ("predict",), per_minute: int = 600) -> str:
    """Add a key to the file (made if there is none, readable by its owner only); returns it for the only time."""
    known = load_keys(path).keys if path.exists() else ()
    if any(entry.id == name for entry in known):
        raise KeyFileError(f"{path}: a key {name!r} exists. Choose another name, or delete its entry to revoke it.")
    key = PREFIX + secrets.token_urlsafe(32)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        entry = KeyEntry(id=name, hash=digest(key), scopes=scopes, requests_per_minute=per_minute, created=created)
    except ValidationError:
        raise KeyFileError(f"{name!r}: a key's name has letters, digits, dot, dash, underscore; at most 64.") from None
    content = KeyFile(keys=(*known, entry)).model_dump(mode="json")
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
    return key


@dataclass
class _Bucket:
    level: float
    filled: float


class Keys:
    """Who may ask: looks keys up and counts their requests. Re-reads its file when that changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stat()
        self._entries = load_keys(path).keys
        self._buckets: dict[str, _Bucket] = {}

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size

    def find(self, key: str) -> KeyEntry | None:
        """The entry of a key, None for an unknown one."""
        wanted, found = digest(key), None
        for entry in self._entries:
            if hmac.compare_digest(entry.hash, wanted):
                found = entry
        return found

    def refresh(self) -> None:
        """Read the file again if it changed: a deleted entry is a revoked key. Raises KeyFileError, keeping the old."""
        stamp = self._stat()
        if stamp != self._stamp:
            self._entries = load_keys(self._path).keys
            self._stamp = stamp

    def take(self, entry: KeyEntry, now: float | None = None) -> float:
        """Count a request; 0, or the seconds to wait until the next one is allowed."""
        now = time.monotonic() if now is None else now
        rate, most = entry.requests_per_minute / 60, float(max(1, entry.requests_per_minute / 6))
        bucket = self._buckets.setdefault(entry.id, _Bucket(most, now))
        bucket.level = min(most, bucket.level + (now - bucket.filled) * rate)
        bucket.filled = now
        if bucket.level >= 1:
            bucket.level -= 1
            return 0.0
        return (1 - bucket.level) / rate
