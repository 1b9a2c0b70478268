"""The metaprompts that the methods of a sweep need: each learned once, teachers shared between variants.

A metaprompt lies in a folder named by its recipe (settings, seed, source data, backbone). Variants that differ in the
source stage only share the folder of their teachers; workers learn them side by side once the teachers are there. What
each stage cost is kept beside it, over interruptions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from clinprompt.errors import TrainingError
from clinprompt.experiments.cells import Group
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.lines import machine
from clinprompt.experiments.results import MetaLine
from clinprompt.experiments.spending import SAVE_EVERY, told_cost
from clinprompt.experiments.store import read_json, write_json
from clinprompt.experiments.workbench import Workbench
from clinprompt.methods.registry import METHODS, MethodSpec
from clinprompt.planning import plan_learn
from clinprompt.training.learn import Learned, learn, require_sources
from clinprompt.version import __version__

Progress = Callable[[str, int, int, float], None]
SHARED_STAGES = ("teachers", "teacher states")


@dataclass(frozen=True)
class MetaJob:
    """A metaprompt to be learned: by which method, at which seed, and the keys of it and of its teachers."""

    variant: str
    seed: int
    key: str
    teachers: str


def metaprompt_jobs(bench: Workbench, groups: Iterable[Group]) -> list[MetaJob]:
    """What must be learned before the unfinished cells of these groups can be computed, or told in the results. Raises
    TrainingError where the suite has too few sources for it."""
    jobs: dict[str, MetaJob] = {}
    for group in groups:
        spec = bench.spec(group.method)
        if not spec.needs_metaprompt:
            continue
        for seed in sorted({cell.seed for cell in group.cells} | {seed for _, seed in group.pool}):
            job = job_of(bench, spec, seed)
            jobs.setdefault(job.key, job)
    if jobs:
        require_sources(bench.sources())
    return list(jobs.values())


def job_of(bench: Workbench, spec: MethodSpec, seed: int) -> MetaJob:
    """What a method that needs a metaprompt has to have learned at a seed."""
    return MetaJob(variant(spec), seed, bench.metaprompt_key(spec, seed), bench.teachers_key(spec, seed))


def variant(spec: MethodSpec) -> str:
    """Name of a way to learn a metaprompt: the first method that learns it so, MPT's own before others."""
    alike = [other for other in METHODS.values() if other.needs_metaprompt and dict(other.learn) == dict(spec.learn)]
    return min(alike, key=lambda other: other.adapt.get("method") != "mpt").name


def run_job(
    bench: Workbench,
    job: MetaJob,
    claims: Claims,
    *,
    finished: Callable[[MetaLine], None],
    progress: Progress | None = None,
) -> bool:
    """Learn what is missing; `finished` is called with its line. False if another worker is at it.

    Teachers are claimed until they and their states are there: variants then learn from them side by side.
    """
    line = _finished(bench, job.key)
    if line is None:
        own, shared = f"metaprompt-{job.key}", f"teachers-{job.teachers}"
        if not claims.take([own, shared]):
            return False
        try:
            line = _learned(bench, job, progress, lambda: claims.release([shared]))
        finally:
            claims.release([own, shared])
    finished(line)
    return True


def require(bench: Workbench, jobs: Iterable[MetaJob], progress: Progress | None = None) -> None:
    """Learn what is missing of these, one after the other, without waiting. Raises TrainingError if another process is
    at one of them."""
    claims = Claims(bench.store.claims)
    with claims.beating():
        for job in jobs:
            if not run_job(bench, job, claims, finished=lambda _: None, progress=progress):
                raise TrainingError(
                    f"{bench.store.work}: another process learns this metaprompt; try again when it is done."
                )


def _learned(bench: Workbench, job: MetaJob, progress: Progress | None, taught: Callable[[], None]) -> MetaLine:
    """The line of a metaprompt, which is learned if it is not there. `taught`: called when the teachers are done."""
    kept = _finished(bench, job.key)
    if kept is not None:
        return kept
    folder, shared = bench.store.metaprompt(job.key), bench.store.teachers(job.teachers)
    settings = bench.protocol.learn_settings(METHODS[job.variant], bench.backbone.preset, job.seed)
    shown = f"{job.variant} {job.seed}"
    clock = StageClock(folder / "cost.json", shared / "cost.json", progress, shown, taught)
    try:
        learned = learn(bench.backbone, bench.sources(), settings, folder, teachers_folder=shared, progress=clock)
    finally:
        clock.save()
    line = _line(bench, job.variant, job.seed, learned, clock)
    write_json(folder / "line.json", line.model_dump(mode="json"))
    return line


def _finished(bench: Workbench, key: str) -> MetaLine | None:
    kept = bench.store.metaprompt_line(key)
    if kept is None or not (bench.store.metaprompt(key) / "metaprompt.safetensors").is_file():
        return None
    return MetaLine.model_validate(kept)


def _line(bench: Workbench, name: str, seed: int, learned: Learned, clock: StageClock) -> MetaLine:
    metaprompt = learned.metaprompt
    settings = bench.protocol.learn_settings(METHODS[name], bench.backbone.preset, seed)
    length = metaprompt.shared.shape[0]
    estimate = plan_learn(bench.backbone, learned.examples, length, settings)
    searched = told_cost(bench.backbone, bench.protocol.network(METHODS[name]))
    tensors = (metaprompt.shared, metaprompt.u, metaprompt.v)
    return MetaLine(
        variant=name,
        seed=seed,
        digest=metaprompt.digest,
        suite=bench.protocol.suite,
        sources=tuple(metaprompt.names),
        seconds=round(clock.seconds + searched.seconds, 3),
        flops=estimate.flops + searched.flops,
        joules=None if searched.joules is None else clock.joules,
        stored_bytes=sum(t.numel() * t.element_size() for t in tensors),
        trainable=estimate.stages[-1].parameters,
        backbone=bench.backbone.name,
        settings=settings.model_dump(mode="json"),
        library=__version__,
        machine=machine(),
    )


@dataclass
class StageClock:
    """A progress callback that sums seconds and joules per stage, in one file for the teachers and one for the rest,
    which are written every few seconds.

    What variants share is counted in each of them: a line says what its metaprompt would have cost alone. `taught` is
    called once, when the stages that they share are done and noted.
    """

    own: Path
    shared: Path
    shown: Progress | None = None
    name: str = ""
    taught: Callable[[], None] | None = None
    spent: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    measured: bool = True

    def __post_init__(self) -> None:
        for path in (self.own, self.shared):
            kept = read_json(path) or {"seconds": {}, "joules": {}, "measured": True}
            self.spent |= kept["seconds"]
            self.energy |= kept["joules"]
            self.measured = self.measured and kept["measured"]
        self._began, self._meter = time.monotonic(), EnergyMeter()
        self._saved = self._began

    @property
    def seconds(self) -> float:
        return sum(self.spent.values())

    @property
    def joules(self) -> float | None:
        return round(sum(self.energy.values()), 1) if self.measured else None

    def __call__(self, stage: str, done: int, total: int, loss: float) -> None:
        now, joules = time.monotonic(), self._meter.joules()
        self.spent[stage] = self.spent.get(stage, 0.0) + now - self._began
        self.energy[stage] = self.energy.get(stage, 0.0) + (joules or 0.0)
        self.measured = self.measured and joules is not None
        self._began, self._meter = now, EnergyMeter()
        leaves = self.taught is not None and stage not in SHARED_STAGES
        if leaves or now - self._saved >= SAVE_EVERY:
            self.save()
            self._saved = now
        if self.taught is not None and leaves:
            self.taught()
            self.taught = None
        if self.shown:
            self.shown(f"{self.name}: {stage}", done, total, loss)

    def save(self) -> None:
        """Write what was spent so far."""
        for path, stages in ((self.shared, SHARED_STAGES), (self.own, None)):
            chosen = [s for s in self.spent if (s in SHARED_STAGES) == (stages is not None)]
            write_json(
                path,
                {
                    "seconds": {s: self.spent[s] for s in chosen},
                    "joules": {s: self.energy[s] for s in chosen},
                    "measured": self.measured,
                },
            )
