"""What the routes share: engine, library, limits, keys, books."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinprompt.errors import ClinpromptError
from clinprompt.serving import memory
from clinprompt.serving.admission import Admission
from clinprompt.serving.audit import Audit
from clinprompt.serving.engine import Engine, EngineBusy, ServedTask, UnknownTask
from clinprompt.serving.keys import Keys
from clinprompt.serving.library import Library
from clinprompt.serving.metrics import Metrics
from clinprompt.serving.problems import TooLarge
from clinprompt.serving.settings import ServerSettings

log = logging.getLogger("clinprompt.serving")


@dataclass
class Service:
    """One server's parts. `keys` None: no key is asked for."""

    engine: Engine
    library: Library
    settings: ServerSettings = field(default_factory=ServerSettings)
    keys: Keys | None = None
    audit: Audit | None = None

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings.queue)
        self.metrics = Metrics(self.engine, self.admission)
        self.ready = False

    def task(self, name: str) -> ServedTask:
        """A task by served name. Raises UnknownTask, which never repeats what was asked for."""
        tasks = self.engine.tasks()
        if name not in tasks:
            raise UnknownTask(f"no such task. Served: {', '.join(sorted(tasks)) or '(none)'}.")
        return tasks[name]

    @contextmanager
    def hold(self, questions: int) -> Iterator[None]:
        """Places for the questions of a request. Raises EngineBusy or TooLarge, and counts that."""
        try:
            self.admission.take(questions)
        except (EngineBusy, TooLarge):
            self.metrics.refused.labels("queue").inc()
            raise
        started = time.monotonic()
        try:
            yield
        finally:
            self.admission.give(questions, time.monotonic() - started)

    @contextmanager
    def book(self, state: Any, tasks: Sequence[str], texts: Sequence[str]) -> Iterator[None]:
        """A request in the books, however it ends: metrics by task, and a line of the audit log. `state` is the
        request's, with its id and the id of its key."""
        outcome = "failed"
        try:
            yield
            outcome = "answered"
            for task in tasks:
                self.metrics.documents.labels(task).inc(len(texts))
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            if self.audit is not None:
                key = getattr(state, "key", "-")
                self.audit.write(request=state.request_id, key=key, tasks=tasks, inputs=texts, outcome=outcome)

    async def start(self) -> list[asyncio.Task[None]]:
        """Load the folder; returns the tasks that run beside the server."""
        await self.library.refresh()
        self.ready = True
        return [asyncio.create_task(self._watch()), asyncio.create_task(_tidy())]

    async def _watch(self) -> None:
        """Look at the folder of tasks and at the key file, for ever: a key is revoked whatever happens to a task."""
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            with _going_on():
                await self.library.refresh()
            with _going_on():
                if self.keys is not None:
                    self.keys.refresh()

    async def stop(self) -> None:
        """Answer what was accepted and close everything."""
        self.ready = False
        await self.engine.close()
        if self.audit is not None:
            self.audit.close()

    @classmethod
    def of_folder(
        cls,
        folder: Path,
        engine: Engine,
        settings: ServerSettings | None = None,
        *,
        keys: Path | None = None,
        audit: Path | None = None,
        metaprompts: tuple[Path, ...] = (),
    ) -> Service:
        """A service of the task files in a folder. Raises ClinpromptError for what cannot be read or written."""
        return cls(
            engine,
            Library(folder, engine, metaprompts),
            settings or ServerSettings(),
            Keys(keys) if keys else None,
            Audit(audit) if audit else None,
        )


@contextmanager
def _going_on() -> Iterator[None]:
    """What fails is logged and tried again; of what is no error of ours, the type alone."""
    try:
        yield
    except ClinpromptError as error:
        log.warning("looking for changes: %s", error)
    except Exception as error:
        log.error("looking for changes: %s", (isinstance(error, OSError) and error.strerror) or type(error).__name__)


async def _tidy() -> None:
    """Give freed memory back to the system, for ever; without blocking the event loop."""
    while await asyncio.to_thread(memory.give_back):
        await asyncio.sleep(memory.SECONDS)
