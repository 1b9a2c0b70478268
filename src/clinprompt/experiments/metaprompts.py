"""The metaprompts that the methods of a sweep need: each learned once, teachers shared between variants.

A metaprompt lies in a folder named by its recipe (settings, seed, source data, backbone). Variants that differ in the
source stage only share the folder of their teachers. What each stage cost is kept beside it, over interruptions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from clinprompt.experiments.cells import Group
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.lines import machine
from clinprompt.experiments.results import MetaLine
from clinprompt.experiments.spending import SAVE_EVERY
from clinprompt.experiments.store import read_json, write_json
from clinprompt.experiments.workbench import Workbench
from clinprompt.methods.registry import METHODS, MethodSpec
from clinprompt.planning import plan_learn
from clinprompt.training.learn import Learned, learn
from clinprompt.version import __version__

Progress = Callable[[str, int, int, float], None]
SHARED_STAGES = ("teachers", "teacher states")


@dataclass(frozen=True)
class MetaJob:
    """Metaprompts that share their teachers, learned one after the other: (method, seed, key) each."""

    teachers: str
    wanted: tuple[tuple[str, int, str], ...]


def metaprompt_jobs(bench: Workbench, groups: Iterable[Group]) -> list[MetaJob]:
    """What must be learned before the unfinished cells of these groups can be computed, or told in the results."""
    jobs: dict[str, dict[str, tuple[str, int, str]]] = {}
    for group in groups:
        spec = bench.spec(group.method)
        if not spec.needs_metaprompt:
            continue
        for seed in sorted({cell.seed for cell in group.cells} | {seed for _, seed in group.pool}):
            key = bench.metaprompt_key(spec, seed)
            jobs.setdefault(bench.teachers_key(spec, seed), {}).setdefault(key, (variant(spec), seed, key))
    return [MetaJob(teachers, tuple(wanted.values())) for teachers, wanted in jobs.items()]


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
    """Learn what is missing; `finished` is called with each line. False if another worker is at it, which does not
    matter where nothing is missing: that worker learns other variants from these teachers."""
    there = [line for _, _, key in job.wanted if (line := _finished(bench, key)) is not None]
    if len(there) == len(job.wanted):
        for line in there:
            finished(line)
        return True
    names = [f"teachers-{job.teachers}"]
    if not claims.take(names):
        return False
    try:
        for name, seed, key in job.wanted:
            finished(_learned(bench, job.teachers, name, seed, key, progress))
    finally:
        claims.release(names)
    return True


def _learned(bench: Workbench, teachers: str, name: str, seed: int, key: str, progress: Progress | None) -> MetaLine:
    """The line of a metaprompt, which is learned if it is not there."""
    kept = _finished(bench, key)
    if kept is not None:
        return kept
    folder, shared = bench.store.metaprompt(key), bench.store.teachers(teachers)
    settings = bench.protocol.learn_settings(METHODS[name], bench.backbone.preset, seed)
    clock = StageClock(folder / "cost.json", shared / "cost.json", progress, f"{name} {seed}")
    try:
        learned = learn(bench.backbone, bench.sources(), settings, folder, teachers_folder=shared, progress=clock)
    finally:
        clock.save()
    line = _line(bench, name, seed, learned, clock)
    write_json(folder / "line.json", line.model_dump(mode="json"))
    return line


def _finished(bench: Workbench, key: str) -> MetaLine | None:
    folder = bench.store.metaprompt(key)
    kept = read_json(folder / "line.json")
    if kept is None or not (folder / "metaprompt.safetensors").is_file():
        return None
    return MetaLine.model_validate(kept)


def _line(bench: Workbench, name: str, seed: int, learned: Learned, clock: StageClock) -> MetaLine:
    metaprompt = learned.metaprompt
    settings = bench.protocol.learn_settings(METHODS[name], bench.backbone.preset, seed)
    length = metaprompt.shared.shape[0]
    estimate = plan_learn(bench.backbone, learned.examples, length, settings)
    tensors = (metaprompt.shared, metaprompt.u, metaprompt.v)
    return MetaLine(
        variant=name,
        seed=seed,
        digest=metaprompt.digest,
        suite=bench.protocol.suite,
        sources=tuple(metaprompt.names),
        seconds=round(clock.seconds, 2),
        flops=estimate.flops,
        joules=clock.joules,
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

    What variants share is counted in each of them: a line says what its metaprompt would have cost alone.
    """

    own: Path
    shared: Path
    shown: Progress | None = None
    name: str = ""
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
        if now - self._saved >= SAVE_EVERY:
            self.save()
            self._saved = now
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
