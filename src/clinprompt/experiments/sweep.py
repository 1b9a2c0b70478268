"""A sweep from end to end: what is there already, what must be learned first, what is left, and who computes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from pydantic import BaseModel

from clinprompt.backbone.model import load_backbone
from clinprompt.errors import TrainingError
from clinprompt.experiments.cells import CellPlan, Group, Unit, packed
from clinprompt.experiments.claims import LEASE, Claims
from clinprompt.experiments.lines import test_set
from clinprompt.experiments.metaprompts import MetaJob, metaprompt_jobs, run_job
from clinprompt.experiments.multitask_bench import multitask_bench
from clinprompt.experiments.multitask_protocol import parse_multitask_protocol
from clinprompt.experiments.protocol import FULL, parse_protocol
from clinprompt.experiments.results import Planned, other_numerics
from clinprompt.experiments.store import Line, ResultsFile, Store
from clinprompt.experiments.trainings import Progress, forget
from clinprompt.experiments.units import run_unit
from clinprompt.experiments.workbench import Workbench
from clinprompt.methods.registry import find_method
from clinprompt.training.banks import taken

CPU_ROWS = 32
"""Rows of one training on a CPU, where more of them save nothing and delay the first result. Our choice."""
WAIT = 2.0  # seconds before asking again for work that another worker holds

W = TypeVar("W", MetaJob, Unit)


@dataclass(frozen=True)
class Setup:
    """What a worker anywhere needs to build its own workbench: names and numbers only."""

    protocol: dict[str, Any]
    backbone: dict[str, Any]  # arguments of load_backbone
    work: Path
    rows: int
    data_dir: Path | None = None
    threads: int = 0  # 0: as PyTorch decides
    lease: float = LEASE
    multitask: bool = False  # the protocol is one of multi-task methods

    def bench(self) -> Workbench:
        """A workbench in this process."""
        if self.threads:
            torch.set_num_threads(self.threads)
        backbone = load_backbone(**self.backbone)
        if self.multitask:
            plan = parse_multitask_protocol(self.protocol)
            return multitask_bench(plan, backbone, Store(self.work), self.data_dir)
        return Workbench(parse_protocol(self.protocol), backbone, Store(self.work), self.data_dir)


class Executor(Protocol):
    """Runs jobs and units somewhere; `after` is called in this process when one is finished."""

    def metaprompts(self, jobs: Sequence[MetaJob], after: Callable[[MetaJob], None]) -> None: ...

    def units(self, units: Sequence[Unit], after: Callable[[Unit], None]) -> None: ...


@dataclass
class Sweep:
    """A sweep and its results file. `told` is called with the number of cells that are in it."""

    bench: Workbench
    results: ResultsFile
    rows: int
    told: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        self.groups: list[Group] = self.bench.groups()

    @property
    def total(self) -> int:
        return sum(len(group.cells) for group in self.groups)

    def missing(self) -> list[tuple[Group, list[CellPlan]]]:
        """Groups with their cells that are neither in the store nor in the results file, where there are any."""
        known, store = self.results.ids(), self.bench.store
        found = [(g, [c for c in g.cells if c.id not in known and not store.has_cell(c.id)]) for g in self.groups]
        return [(group, cells) for group, cells in found if cells]

    def left(self) -> list[Group]:
        """Groups with a cell that is missing."""
        return [group for group, _ in self.missing()]

    def units(self) -> list[Unit]:
        """The work that is left, packed."""
        left = self.left()
        names = {group.method for group in left}
        trials = {name: self.bench.protocol.trials if self.bench.spec(name).trains else 1 for name in names}
        return packed(left, trials, self.rows)

    def run(self, executor: Executor) -> None:
        """Compute what is left. Cells that the results file holds count as computed, wherever that was."""
        recorded = [line for line in self.results.lines() if line.get("kind", "cell") == "cell"]
        self._agree_on_numerics(recorded)
        self._adopt(recorded)
        self._describe()
        self._collect(self.groups)
        left = self.left()
        if left:
            executor.metaprompts(metaprompt_jobs(self.bench, left), self._after_job)
            executor.units(self.units(), lambda unit: self._collect(unit.groups))
        self._collect(self.groups)
        self._forget()

    def refresh(self) -> None:
        """Copy what other processes have finished so far into the results file."""
        self._collect(self.groups)

    def _agree_on_numerics(self, recorded: Sequence[Line]) -> None:
        """Raises TrainingError if the results file (its cells) or the store have cells of another precision."""
        ours = self.bench.backbone.numerics
        for line in recorded:
            theirs = line.get("settings", {}).get("numerics", ours)
            if theirs != ours:
                what = f"{self.results.path}: cell {line['id']} was"
                raise TrainingError(other_numerics(what, theirs, ours))
        self.bench.store.claim_numerics(ours)

    def _adopt(self, recorded: Sequence[Line]) -> None:
        """Put cells of the results file into the store, if they are not there."""
        wanted = {cell.id for group in self.groups for cell in group.cells}
        for line in recorded:
            if line["id"] in wanted:
                self.bench.store.keep_cell(line)

    def _forget(self) -> None:
        """Delete checkpoints of finished groups that a killed process left."""
        left = {group.selection for group in self.left()}
        finished = [group for group in self.groups if group.selection not in left]
        forget(self.bench, {name: name for group in finished for name in (group.selection, group.choice)})

    def _describe(self) -> None:
        """The lines about the sweep: which cells it has, and which records each test set."""
        cells = tuple((c.target, c.method, c.shots, c.draw, c.seed) for g in self.groups for c in g.cells)
        self.results.append(_plain(Planned(suite=self.bench.suite, cells=cells)))
        for name in self.bench.target_names():
            self.results.append(_plain(test_set(name, self.bench.test_records(name))))

    def _after_job(self, job: MetaJob) -> None:
        line = self.bench.store.metaprompt_line(job.key)
        if line is not None:
            self.results.append(line)

    def _collect(self, groups: Sequence[Group]) -> None:
        """Copy finished cells into the results file."""
        known = self.results.ids()
        for cell in (cell for group in groups for cell in group.cells if cell.id not in known):
            line = self.bench.store.cell(cell.id)
            if line is not None:
                self.results.append(line)
        if self.told:
            wanted = {cell.id for group in self.groups for cell in group.cells}
            self.told(len(wanted & self.results.ids()), len(wanted))


@dataclass
class Local:
    """Everything in this process, one unit after another."""

    bench: Workbench
    claims: Claims
    rows: int
    progress: Progress | None = None

    def metaprompts(self, jobs: Sequence[MetaJob], after: Callable[[MetaJob], None]) -> None:
        """Learn what the methods need."""

        def one(job: MetaJob) -> bool:
            return run_job(self.bench, job, self.claims, finished=lambda _: after(job), progress=self.progress)

        with self.claims.beating():
            until_done(jobs, one, after)

    def units(self, units: Sequence[Unit], after: Callable[[Unit], None]) -> None:
        """Compute the cells; each is in the results file as soon as it is finished."""

        def one(unit: Unit) -> bool:
            return run_unit(
                self.bench, unit, self.claims, rows=self.rows, finished=lambda _: after(unit), progress=self.progress
            )

        with self.claims.beating():
            until_done(units, one, after)


def until_done(work: Sequence[W], one: Callable[[W], bool], after: Callable[[W], None]) -> None:
    """Do each piece of work; what another worker holds is asked for again, after all the rest."""
    queue = list(work)
    while queue:
        held = []
        for piece in queue:
            if one(piece):
                after(piece)
            else:
                held.append(piece)
        if len(held) == len(queue):
            time.sleep(WAIT)
        queue = held


def rows_that_fit(bench: Workbench) -> int:
    """Rows of one training: on a CPU a fixed number, on an accelerator what half of its free memory holds.

    A row holds its values, gradient, two moments and best values in fp32; of the methods of the sweep the largest
    adapter counts. `full` trains a copy of the model per row, and is counted so.
    """
    if bench.backbone.device.type != "cuda":
        return CPU_ROWS
    free = torch.cuda.mem_get_info(bench.backbone.device)[0] / 2
    return max(1, int(free / (20 * max(_numbers(bench, name) for name in bench.protocol.methods))))


def _numbers(bench: Workbench, method: str) -> int:
    spec = find_method(method)
    if spec.adapt.get("method") == "full":
        return bench.backbone.parameters
    if spec.adapt.get("method") in ("lora", "prefix", "lora+prefix", "peml"):
        return bench.backbone.parameters // 16
    settings = bench.settings(method, FULL, 0)
    return taken(bench.backbone, settings, settings.method or "mpt", bench.prompt_length()) * bench.backbone.width * 2


def _plain(line: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = line.model_dump(mode="json")
    return found
