"""Where results lie: one file per finished cell, never written twice, and the results file that collects them.

`<work>/cells/<id>.json` is written beside and linked into place, so it is complete or absent and the first writer
wins. The results file is JSON Lines; lines are appended under a lock, each id once, and a line that a killed process
left half is cut off before the next one is written (its cell is still in the store).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinprompt.errors import ResultsError, TrainingError
from clinprompt.experiments.results import other_numerics
from clinprompt.training.identity import digest_of

Line = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The folder `--work`: cells, selections, metaprompts, checkpoints of trainings, and claims."""

    work: Path

    def cell(self, identifier: str) -> Line | None:
        """The line of a finished cell."""
        return read_json(self.work / "cells" / f"{identifier}.json")

    def has_cell(self, identifier: str) -> bool:
        return (self.work / "cells" / f"{identifier}.json").is_file()

    def keep_cell(self, line: Line) -> bool:
        """Store a finished cell; False if another worker was first, whose result then stands."""
        return write_once(self.work / "cells" / f"{line['id']}.json", line)

    def selection(self, identifier: str) -> Line | None:
        """The trials of a group with their losses, and which was chosen."""
        return read_json(self.work / "selections" / f"{identifier}.json")

    def keep_selection(self, identifier: str, found: Line) -> Line:
        """Store a selection; returns the one that stands."""
        write_once(self.work / "selections" / f"{identifier}.json", found)
        return self.selection(identifier) or found

    def training(self, identifier: str) -> Path:
        """The checkpoint of a training; beside it, `.json` holds what it has cost so far."""
        return self.work / "trainings" / f"{identifier}.safetensors"

    def metaprompt(self, key: str) -> Path:
        """The folder of a metaprompt."""
        return self.work / "metaprompts" / key

    def metaprompt_line(self, key: str) -> Line | None:
        """What learning a metaprompt has cost, when it is learned."""
        return read_json(self.metaprompt(key) / "line.json")

    def teachers(self, key: str) -> Path:
        """The folder of teachers that several metaprompts share."""
        return self.work / "teachers" / key

    def claim_numerics(self, numerics: dict[str, Any]) -> None:
        """Note what precision the folder's cells are computed in. Raises TrainingError if it holds those of another:
        ids do not tell them apart, and they would be taken for finished."""
        note = self.work / "numerics.json"
        write_once(note, numerics)
        if (found := read_json(note)) != numerics:
            raise TrainingError(other_numerics(f"{self.work}: its cells were", found or {}, numerics))

    @property
    def claims(self) -> Path:
        return self.work / "claims"


class ResultsFile:
    """A results file: JSON Lines of the kinds in `experiments.results`, appended by any number of processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: set[str] = set()
        self._read = 0

    def ids(self) -> set[str]:
        """The ids of all cells in it, and the identities of its other lines."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                self._absorb(file)
        return set(self._known)

    def lines(self) -> list[Line]:
        """All complete lines."""
        if not self.path.is_file():
            return []
        rows = self.path.read_bytes().splitlines(keepends=True)
        return [_parsed(raw, self.path, number) for number, raw in enumerate(rows, start=1) if raw.endswith(b"\n")]

    def append(self, line: Line) -> bool:
        """Add a line unless it is there; False if it is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as file:
            self._absorb(file)
            if identity(line) in self._known:
                return False
            file.truncate(self._read)
            file.seek(self._read)
            file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
            self._absorb(file)
            return True

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _absorb(self, file: Any) -> None:
        """Note the identities of complete lines that were not read yet."""
        file.seek(self._read)
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                break
            self._known.add(identity(_parsed(raw, self.path, number)))
            self._read += len(raw)


def identity(line: Line) -> str:
    """What makes a line the same as another: a cell's id, else all of it but what was measured."""
    if line.get("kind", "cell") == "cell":
        return str(line["id"])
    fixed = {key: value for key, value in line.items() if key not in ("seconds", "joules", "machine")}
    return digest_of(fixed)


def _parsed(raw: bytes, path: Path, number: int) -> Line:
    try:
        line = json.loads(raw)
        identity(line)
    except (ValueError, KeyError, AttributeError):
        raise ResultsError(path, number, "no line of a results file.", "Choose another --out.") from None
    found: Line = line
    return found


def read_json(path: Path) -> Line | None:
    """The mapping in a file, None when there is no file."""
    try:
        found: Line = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def write_once(path: Path, value: Line) -> bool:
    """Write a file that is not there yet, in one step; False if it is."""
    partial = _beside(path, value)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def write_json(path: Path, value: Line) -> None:
    """Write or replace a file in one step."""
    _beside(path, value).replace(path)


def _beside(path: Path, value: Line) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False))
        file.flush()
        os.fsync(file.fileno())
    return partial
