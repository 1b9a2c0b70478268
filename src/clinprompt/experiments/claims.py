"""Who works on what: claim files that exactly one worker can create, kept alive by a heartbeat.

A claim of generation g is the file `<name>.<g>`, created with O_EXCL; the highest generation owns the name. A claim
whose owner is dead (the same machine: its process is gone; elsewhere: no heartbeat for `lease` seconds) is taken over
by creating the next generation, which again only one worker can do. Nothing is ever deleted to take over, and a worker
deletes older generations only while its own claim stands, so a slow claimant cannot delete the claim of a fast one.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LEASE = 120.0
"""Seconds without a heartbeat after which the claim of another machine is void. Our choice."""


@dataclass
class Claims:
    """Claims of one worker in a folder that all workers share."""

    folder: Path
    lease: float = LEASE
    owner: str = field(default_factory=lambda: _owner())
    held: dict[str, Path] = field(default_factory=dict)
    _written: dict[Path, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, names: Iterable[str]) -> bool:
        """Claim all of these names, or none if another worker holds one of them."""
        taken: list[str] = []
        for name in sorted(set(names)):
            if not self._take(name):
                self.release(taken)
                return False
            taken.append(name)
        return True

    def release(self, names: Iterable[str]) -> None:
        """Give names back: the claim and its predecessors are deleted; nothing if others have taken it over since."""
        for path in self._let_go(names):
            name, own = _parts(path)
            for generation, other in _generations(self.folder, name):
                if generation <= own:
                    other.unlink(missing_ok=True)

    def _let_go(self, names: Iterable[str]) -> list[Path]:
        """Hold these names no longer; the paths of those whose claim is still this worker's own file."""
        with self._lock:
            paths = [self.held.pop(name) for name in names if name in self.held]
            return [path for path in paths if _content(path) == self._written.pop(path)]

    @contextmanager
    def beating(self) -> Iterator[None]:
        """While inside, a thread touches the held claims, several times per lease."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with self._lock:
                left = list(self.held)
            self.release(left)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self.lease / 6):
            with self._lock:
                paths = list(self.held.values())
            for path in paths:
                with suppress(FileNotFoundError):  # released since
                    os.utime(path)

    def _take(self, name: str) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        found = _generations(self.folder, name)
        if not found:
            return self._create(name, 0)
        generation, path = found[-1]
        before = _content(path)
        if before is None or self._alive(path, before):
            return False
        if not self._create(name, generation + 1):
            return False
        if _content(path) != before:  # released and claimed anew in between: that claim stands, also if it is older
            for own in self._let_go([name]):
                own.unlink(missing_ok=True)
            return False
        return True

    def _create(self, name: str, generation: int) -> bool:
        path = self.folder / f"{name}.{generation}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        content = json.dumps({"owner": self.owner, "token": secrets.token_hex(8)})
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
        with self._lock:
            self.held[name], self._written[path] = path, content
        return True

    def _alive(self, path: Path, content: str) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return False
        host, process, started = _fields(content)
        if host == socket.gethostname() and process:
            return _started(process) == started
        return age < self.lease


def _owner() -> str:
    """Machine, process and when it started: a process number is used again after a while."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def _fields(content: str) -> tuple[str, int, str]:
    """(machine, process, start) of a claim; no process if it was killed while it wrote its claim."""
    try:
        host, process, started = json.loads(content)["owner"].rsplit("/", 2)
        return host, int(process), started
    except (ValueError, KeyError, TypeError):
        return "", 0, ""


def _started(process: int) -> str:
    """When a process of this machine started, in clock ticks after boot; "" if there is none.

    Where the system has no /proc, a process that exists counts as the one meant.
    """
    stat = Path(f"/proc/{process}/stat")
    if Path("/proc/self/stat").exists():
        try:
            after_name = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if after_name[0] in "ZX" else after_name[19]
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _parts(path: Path) -> tuple[str, int]:
    name, _, generation = path.name.rpartition(".")
    return name, int(generation)


def _generations(folder: Path, name: str) -> list[tuple[int, Path]]:
    """The claims of a name, oldest first."""
    pattern = re.compile(re.escape(name) + r"\.(\d+)")
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return sorted(found)
