"""The folder of task files: what lies in it is served, what is added or removed while the server runs is too.

A task is served under its file's name without `.safetensors`. Metaprompts may lie there too, for files that hold task
vectors only; they are not served. A file that cannot be served is reported and does not disturb the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from clinprompt.errors import ArtifactError, ClinpromptError
from clinprompt.prompts.artifact import TaskPrompt, artifact_kind, load_task
from clinprompt.serving.engine import Engine, ServedTask, UnknownTask

SUFFIX = ".safetensors"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
log = logging.getLogger("clinprompt.serving")

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Refused:
    """A file that is not served, and why."""

    name: str
    reason: str


class Library:
    """The folder, and what of it the engine serves. Changes are made one at a time."""

    def __init__(self, folder: Path, engine: Engine, metaprompts: tuple[Path, ...] = ()) -> None:
        if not folder.is_dir():
            raise ArtifactError(f"{folder}: no such folder. Make it and put task files (*.safetensors) into it.")
        self.folder = folder
        self._engine = engine
        self._metaprompts = list(metaprompts)
        self._seen: dict[str, Stamp] = {}
        self._changing = asyncio.Lock()
        self.refused: dict[str, Refused] = {}

    def path(self, name: str) -> Path:
        return self.folder / (name + SUFFIX)

    def size(self, name: str) -> int:
        """Bytes of a task's file; 0 if it is gone from the folder."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return 0

    async def refresh(self) -> None:
        """Serve what is new or changed in the folder, stop serving what is gone."""
        async with self._changing:
            there = await asyncio.to_thread(self._stamps)
            for name in [name for name in self._seen if name not in there]:
                del self._seen[name]
                self.refused.pop(name, None)
                await self._drop(name)
            for name, stamp in there.items():
                if self._seen.get(name) != stamp:
                    self._seen[name] = stamp
                    await self._serve(name)

    async def put(self, name: str, content: bytes) -> ServedTask:
        """Store and serve an uploaded task file; the old one serves until the new one is ready.

        Raises ArtifactError or BackboneError, and then nothing has changed; so too for the name of a metaprompt in the
        folder, which tasks may stand on.
        """
        _check_name(name)
        await asyncio.to_thread(self._require_no_metaprompt, name)
        partial = self.folder / f".{name}{SUFFIX}.upload"
        async with self._changing:
            try:
                await asyncio.to_thread(_store, partial, content)
                try:
                    file = await asyncio.to_thread(self._load, partial)
                except ArtifactError as error:
                    raise ArtifactError(str(error).replace(str(partial), "the uploaded file")) from None
                task = await self._engine.add(name, file)
                await asyncio.to_thread(partial.replace, self.path(name))
            finally:
                partial.unlink(missing_ok=True)
            self._seen[name] = _stamp(self.path(name))
            self.refused.pop(name, None)
            return task

    def _require_no_metaprompt(self, name: str) -> None:
        path = self.path(name)
        try:
            taken = path.is_file() and artifact_kind(path) == "metaprompt"
        except ArtifactError:
            taken = False  # what cannot be read may be replaced
        if taken:
            raise ArtifactError(f"{name} is the name of a metaprompt in the task folder; give the task another name.")

    async def delete(self, name: str) -> None:
        """Stop serving a task and delete its file. Raises UnknownTask."""
        async with self._changing:
            if name not in self._engine.tasks():
                raise UnknownTask("no such task.")
            await self._drop(name)
            self._seen.pop(name, None)
            await asyncio.to_thread(self.path(name).unlink, missing_ok=True)

    async def _serve(self, name: str) -> None:
        path = self.path(name)
        try:
            _check_name(name)
            if await asyncio.to_thread(artifact_kind, path) == "metaprompt":
                return
            task = await self._engine.add(name, await asyncio.to_thread(self._load, path))
        except ClinpromptError as error:
            self.refused[name] = Refused(name, str(error))
            log.warning("not served: %s", error)
            return
        except FileNotFoundError:
            return  # gone between two looks: the next one notices
        self.refused.pop(name, None)
        log.info("serving task %s (%s, prompt of %d)", name, task.definition.type, len(task.file.prompt))

    async def _drop(self, name: str) -> None:
        if name in self._engine.tasks():
            await self._engine.remove(name)
            log.info("no longer serving task %s", name)

    def _load(self, path: Path) -> TaskPrompt:
        return load_task(path, self._metaprompts)

    def _stamps(self) -> dict[str, Stamp]:
        found = {}
        for path in sorted(self.folder.glob("*" + SUFFIX)):
            if path.name.startswith("."):
                continue
            try:
                found[path.name.removesuffix(SUFFIX)] = _stamp(path)
            except FileNotFoundError:
                continue  # gone between listing and looking
        return found


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ArtifactError(
            "a served task's name (its file's name) has letters, digits, dot, dash, underscore; at most 100."
        )


def _store(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
