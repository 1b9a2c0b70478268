"""The folder of task files: what lies in it is served, what is added or removed while the server runs is too.

A task is served under its file's name without `.safetensors`, each task of a multi-task adapter as `FILE.TASK`.
Metaprompts may lie there too, for files that hold task vectors only; they and checkpoints of a training are not served.
A file that cannot be served is reported and does not disturb the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clinprompt.errors import ArtifactError, ClinpromptError
from clinprompt.prompts.artifact import TaskPrompt, artifact_kind, load_task
from clinprompt.prompts.multitask import load_multitask
from clinprompt.serving.engine import Engine, ServedTask, UnknownTask

SUFFIX = ".safetensors"
CHECKPOINT = ".checkpoint" + SUFFIX
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
log = logging.getLogger("clinprompt.serving")

Stamp = tuple[int, int, int]


def require_folder(folder: Path) -> None:
    """Raises ArtifactError where there is none."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder. Make it and put task files (*.safetensors) into it.")


def artifact_files(folder: Path) -> list[Path]:
    """The files of a folder that may hold tasks: not those of an upload or a training under way."""
    found = sorted(folder.glob("*" + SUFFIX))
    return [path for path in found if not path.name.startswith(".") and not path.name.endswith(CHECKPOINT)]


@dataclass(frozen=True)
class Refused:
    """A file, or a task of one, that is not served, and why."""

    name: str
    reason: str
    file: str


class Library:
    """The folder, and what of it the engine serves. Changes are made one at a time."""

    def __init__(self, folder: Path, engine: Engine, metaprompts: tuple[Path, ...] = ()) -> None:
        require_folder(folder)
        self.folder = folder
        self._engine = engine
        self._metaprompts = list(metaprompts)
        self._seen: dict[str, Stamp] = {}
        self._held: dict[str, list[str]] = {}  # names of the tasks that are served from each file
        self._changing = asyncio.Lock()
        self.refused: dict[str, Refused] = {}

    def path(self, name: str) -> Path:
        return self.folder / (name + SUFFIX)

    def file_of(self, task: str) -> Path:
        """The file that a task is served from."""
        return self.path(next((file for file, names in self._held.items() if task in names), task))

    def size(self, task: str) -> int:
        """Bytes of a task's file; 0 if it is gone from the folder."""
        try:
            return self.file_of(task).stat().st_size
        except FileNotFoundError:
            return 0

    async def refresh(self) -> None:
        """Serve what is new or changed in the folder, stop serving what is gone."""
        async with self._changing:
            there = await asyncio.to_thread(self._stamps)
            for name in [name for name in self._seen if name not in there]:
                del self._seen[name]
                await self._drop(name)
            for name, stamp in there.items():
                if self._seen.get(name) != stamp:
                    self._seen[name] = stamp
                    await self._serve(name)

    async def put(self, name: str, content: bytes) -> list[ServedTask]:
        """Store and serve an uploaded file under a name: its task, or all tasks of a multi-task adapter; what it
        replaces serves until it is ready.

        Raises ArtifactError or BackboneError, and then nothing has changed; so too for the name of a metaprompt in the
        folder, which tasks may stand on.
        """
        _check_name(name)
        await asyncio.to_thread(self._require_no_metaprompt, name)
        partial = self.folder / f".{name}{SUFFIX}.upload"
        async with self._changing:
            try:
                await asyncio.to_thread(_store, partial, content)
                with _as_refusal("the uploaded file"):
                    try:
                        files = await asyncio.to_thread(self._load, partial, name)
                    except ArtifactError as error:
                        raise ArtifactError(str(error).replace(str(partial), "the uploaded file")) from None
                    tasks = await self._add_all(name, files)
                await asyncio.to_thread(partial.replace, self.path(name))
            finally:
                partial.unlink(missing_ok=True)
            self._seen[name] = _stamp(self.path(name))
            self._forgive(name)
            await self._keep_only(name, [task.name for task in tasks])
            return tasks

    async def _add_all(self, file: str, files: dict[str, TaskPrompt]) -> list[ServedTask]:
        """Serve the tasks of a file, all or none."""
        before, done = self._engine.tasks(), []
        try:
            for name, task in files.items():
                self._check_free(file, name)
                done.append(await self._engine.add(name, task))
        except Exception:
            for added in done:
                if added.name in before:
                    await self._engine.add(added.name, before[added.name].file)
                else:
                    await self._engine.remove(added.name)
            raise
        return done

    def _require_no_metaprompt(self, name: str) -> None:
        path = self.path(name)
        try:
            with _as_refusal(path.name):
                taken = path.is_file() and artifact_kind(path) == "metaprompt"
        except ArtifactError:
            taken = False  # what cannot be read may be replaced
        if taken:
            raise ArtifactError(f"{name} is the name of a metaprompt in the task folder; give the task another name.")

    async def delete(self, name: str) -> None:
        """Stop serving a file's task, or tasks, and delete it. Raises UnknownTask; ArtifactError for one task of an
        adapter, which has no file of its own."""
        async with self._changing:
            if not self._held.get(name):
                file = self.file_of(name).name.removesuffix(SUFFIX)
                if file not in self._held or file == name:
                    raise UnknownTask("no such task.")
                raise ArtifactError(
                    f"{name} is one of the {len(self._held[file])} tasks in the file {file}, and no file of its own. "
                    f"Delete {file} to remove them all."
                )
            await self._drop(name)
            self._seen.pop(name, None)
            await asyncio.to_thread(self.path(name).unlink, missing_ok=True)

    async def _serve(self, file: str) -> None:
        """Serve what can be served of a file that is new or has changed; what it held answers where that fails."""
        path = self.path(file)
        try:
            _check_name(file)
            with _as_refusal(path.name):
                kind = await asyncio.to_thread(artifact_kind, path)
                files = {} if kind == "metaprompt" else await asyncio.to_thread(self._load, path, file)
        except ClinpromptError as error:
            self._refuse(file, file, error)
            return
        except FileNotFoundError:
            return  # gone between two looks: the next one notices
        if kind == "metaprompt":
            await self._drop(file)
            return
        self._forgive(file)
        for name, task in files.items():
            try:
                self._check_free(file, name)
                with _as_refusal(path.name):
                    served = await self._engine.add(name, task)
            except ClinpromptError as error:
                self._refuse(file, name, error)
                continue
            self._held.setdefault(file, [])
            if name not in self._held[file]:
                self._held[file].append(name)
            log.info("serving task %s (%s, %s)", name, served.definition.type, served.learned)
        await self._keep_only(file, [name for name in files if name in self._held.get(file, ())])

    def _refuse(self, file: str, name: str, error: ClinpromptError) -> None:
        self.refused[name] = Refused(name, str(error), file)
        log.warning("not served: %s", error)

    def _forgive(self, file: str) -> None:
        self.refused = {name: one for name, one in self.refused.items() if one.file != file}

    async def _keep_only(self, file: str, names: list[str]) -> None:
        """These are the tasks that are served from a file now; others that it held are gone."""
        for name in self._held.get(file, ()):
            if name not in names and name in self._engine.tasks():
                await self._engine.remove(name)
                log.info("no longer serving task %s", name)
        self._held[file] = names

    async def _drop(self, file: str) -> None:
        self._forgive(file)
        await self._keep_only(file, [])
        del self._held[file]

    def _check_free(self, file: str, name: str) -> None:
        _check_name(name)
        other = next((o for o, names in self._held.items() if o != file and name in names), None)
        if other is not None:
            raise ArtifactError(f"{file}: the file {other} holds a task that is served as {name}; rename one of them.")

    def _load(self, path: Path, file: str) -> dict[str, TaskPrompt]:
        """The tasks of a file by the names they are served under."""
        if artifact_kind(path) != "multitask":
            return {file: load_task(path, self._metaprompts)}
        adapter = load_multitask(path)
        return {f"{file}.{name}": adapter.of(name) for name in adapter.names}

    def _stamps(self) -> dict[str, Stamp]:
        found = {}
        for path in artifact_files(self.folder):
            try:
                found[path.name.removesuffix(SUFFIX)] = _stamp(path)
            except FileNotFoundError:
                continue  # gone between listing and looking
        return found


@contextmanager
def _as_refusal(file: str) -> Iterator[None]:
    """What we did not foresee in a file is a reason not to serve it, and no reason to stop serving the others. Only
    the type of the error is told, and in the log its place: a message might quote anything."""
    try:
        yield
    except (ClinpromptError, FileNotFoundError):
        raise
    except Exception as error:
        kind, frame = type(error).__name__, traceback.extract_tb(error.__traceback__)[-1]
        log.error("%s met a defect: %s at %s:%s", file, kind, frame.name, frame.lineno)
        raise ArtifactError(f"{file}: cannot be loaded ({kind}). Learn the task again, or remove the file.") from None


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or (name + SUFFIX).endswith(CHECKPOINT):
        raise ArtifactError(
            "a served task's name (its file's name) has letters, digits, dot, dash, underscore, at most 100, and does "
            "not end in .checkpoint."
        )


def _store(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
