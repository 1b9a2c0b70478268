"""The same work on Ray: worker processes, here or on other machines, that share the work folder.

A worker builds its own workbench from names and numbers, and claims what it computes. When one dies, a new one is
started and its work is given out again; what the dead one had finished is in the store. The results file is written by
this process only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clinprompt.errors import ClinpromptError, TrainingError
from clinprompt.experiments.cells import Unit
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.metaprompts import MetaJob, run_job
from clinprompt.experiments.sweep import WAIT, Setup
from clinprompt.experiments.units import run_unit

W = TypeVar("W", MetaJob, Unit)
ATTEMPTS = 3
"""How often work is given out whose worker died: once may be an accident of the machine, thrice is the work's."""


class Worker:
    """One process: a workbench and its claims."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.bench = setup.bench()
        self.claims = Claims(self.bench.store.claims, setup.lease)

    def do(self, work: MetaJob | Unit) -> bool | str:
        """Compute; False if another worker holds it, a message for an error that the user can act on."""
        try:
            with self.claims.beating():
                if isinstance(work, MetaJob):
                    return run_job(self.bench, work, self.claims, finished=lambda _: None)
                return run_unit(self.bench, work, self.claims, rows=self.setup.rows, finished=lambda _: None)
        except ClinpromptError as error:
            return str(error)


@dataclass
class OnRay:
    """Executor on a Ray cluster: the one RAY_ADDRESS names, else one started on this machine."""

    setup: Setup
    workers: int | None = None
    tick: Callable[[], None] | None = None  # called about every two seconds while work is going on
    _actors: list[Any] = field(default_factory=list)

    def metaprompts(self, jobs: Sequence[MetaJob], after: Callable[[MetaJob], None]) -> None:
        """Learn metaprompts, those with different teachers at the same time."""
        self._all(jobs, after)

    def units(self, units: Sequence[Unit], after: Callable[[Unit], None]) -> None:
        """Compute cells."""
        self._all(units, after)

    def _all(self, work: Sequence[W], after: Callable[[W], None]) -> None:
        if not work:
            return
        with self._cluster() as ray:
            count = min(len(work), self.workers or _room(ray, self.setup))
            self._actors = [self._start(ray) for _ in range(count)]
            try:
                self._give_out(ray, list(work), after)
            finally:
                for actor in self._actors:
                    ray.kill(actor)
                self._actors = []

    def _give_out(self, ray: Any, queue: list[W], after: Callable[[W], None]) -> None:
        """Every idle worker gets the next piece of work until all is done; what others hold is asked for again after a
        while."""
        deaths: dict[int, int] = {}
        going: dict[Any, tuple[Any, W]] = {}
        held: list[tuple[float, W]] = []  # with when it was held
        idle = list(self._actors)
        while queue or held or going:
            while held and time.monotonic() - held[0][0] >= WAIT:
                queue.append(held.pop(0)[1])
            while queue and idle:
                actor, piece = idle.pop(), queue.pop(0)
                going[actor.do.remote(piece)] = (actor, piece)
            done = _finished(ray, list(going))
            if self.tick:
                self.tick()
            for reference in done:
                actor, piece = going.pop(reference)
                outcome = self._outcome(ray, reference)
                if outcome is None:
                    deaths[id(piece)] = deaths.get(id(piece), 0) + 1
                    _require_luck(deaths[id(piece)], piece)
                    self._actors.remove(actor)
                    actor = self._start(ray)
                    self._actors.append(actor)
                idle.append(actor)
                if isinstance(outcome, str):
                    raise TrainingError(outcome)
                if outcome:
                    after(piece)
                elif outcome is None:
                    queue.append(piece)
                else:
                    held.append((time.monotonic(), piece))

    def _outcome(self, ray: Any, reference: Any) -> bool | str | None:
        """What a worker said; None if it died."""
        try:
            found: bool | str = ray.get(reference)
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError):
            return None
        return found

    def _start(self, ray: Any) -> Any:
        gpus = 1 if str(self.setup.backbone.get("device") or "").startswith("cuda") else 0
        return ray.remote(num_cpus=max(1, self.setup.threads), num_gpus=gpus)(Worker).remote(self.setup)

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        try:
            import ray
        except ImportError:
            raise TrainingError("--executor ray needs Ray: pip install 'clinprompt[ray]'.") from None
        ours = not ray.is_initialized()
        if ours:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()


def _finished(ray: Any, going: list[Any]) -> list[Any]:
    """What of this has ended, after waiting a little for it."""
    if not going:
        time.sleep(WAIT)
        return []
    done: list[Any] = ray.wait(going, num_returns=1, timeout=WAIT)[0]
    return done


def _room(ray: Any, setup: Setup) -> int:
    """Workers that the cluster's processors hold."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // max(1, setup.threads))


def _require_luck(deaths: int, piece: MetaJob | Unit) -> None:
    if deaths >= ATTEMPTS:
        raise TrainingError(
            f"a worker died {deaths} times at the same work ({_name(piece)}): is there enough memory? Lower --rows or "
            "--workers."
        )


def _name(piece: MetaJob | Unit) -> str:
    return piece.groups[0].name if isinstance(piece, Unit) else f"metaprompt {piece.variant}"
