"""What a sweep will cost, before it starts: cells, rows, tokens, FLOPs, and time from short measurements.

FLOPs by the formulas of `clinprompt.planning` over a rate that is measured on a target's examples (or given);
answering is measured on a few questions (`answering_time`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clinprompt.experiments.answering_time import AnsweringTime
from clinprompt.experiments.cells import CellPlan, Group
from clinprompt.experiments.choosing import must_try
from clinprompt.experiments.metaprompts import metaprompt_jobs
from clinprompt.experiments.multitask_bench import MultitaskBench
from clinprompt.experiments.protocol import FULL
from clinprompt.experiments.sweep import Sweep
from clinprompt.experiments.workbench import Workbench, members
from clinprompt.methods.registry import METHODS, MethodSpec
from clinprompt.planning import calibrate, plan_adapt, plan_learn, plan_multitask, plan_search
from clinprompt.training.banks import taken
from clinprompt.training.batching import TaskExamples
from clinprompt.training.learn import prompt_shape, source_examples
from clinprompt.training.search import search_examples


@dataclass(frozen=True)
class MethodEstimate:
    """One method over all its cells that are left. `rows` are trainings, trials included."""

    method: str
    cells: int
    rows: int
    tokens: int
    flops: float
    train_seconds: float
    predict_seconds: float


@dataclass(frozen=True)
class SweepEstimate:
    """A whole sweep. `memory` in bytes, of one training at a time."""

    cells: int
    left: int
    units: int
    methods: tuple[MethodEstimate, ...]
    metaprompts: int
    metaprompt_flops: float
    memory: int
    rate: float
    rate_measured: bool

    @property
    def flops(self) -> float:
        return self.metaprompt_flops + sum(m.flops for m in self.methods)

    @property
    def seconds(self) -> float:
        computed = sum(m.train_seconds + m.predict_seconds for m in self.methods)
        return self.metaprompt_flops / self.rate + computed

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "flops": self.flops, "seconds": self.seconds}


def estimate(sweep: Sweep, rate: float | None) -> SweepEstimate:
    """Of cells that neither the store nor the results file has. Raises TaskError for a target without records."""
    bench, left = sweep.bench, sweep.missing()
    names = sorted({name for group, _ in left for name in group.targets})
    full = {name: _full(bench, name) for name in names}
    measured = rate is None and bool(names)
    if rate is None:
        rate = calibrate(bench.backbone, full[names[0]].train, bench.prompt_length()) if names else 1.0
    answering = AnsweringTime(bench, full)
    found: dict[str, list[MethodEstimate]] = {}
    memory, choosers = 0, set[str]()
    for group, cells in left:
        if isinstance(bench, MultitaskBench):
            part, needed = together(bench, group, cells, rate, answering)
        else:
            part, needed = _group(bench, group, cells, rate, answering, choosing=group.chooser not in choosers)
            choosers.add(group.chooser)
        found.setdefault(group.method, []).append(part)
        memory = max(memory, needed)
    jobs = metaprompt_jobs(bench, [group for group, _ in left])
    missing = [(job.variant, job.seed) for job in jobs if not _learned(bench, job.key)]
    return SweepEstimate(
        cells=sweep.total,
        left=sum(part.cells for parts in found.values() for part in parts),
        units=len(sweep.units()),
        methods=tuple(_sum(name, parts) for name, parts in found.items()),
        metaprompts=len(missing),
        metaprompt_flops=_learning(bench, missing),
        memory=memory,
        rate=rate,
        rate_measured=measured,
    )


def _group(
    bench: Workbench, group: Group, cells: list[CellPlan], rate: float, answering: AnsweringTime, *, choosing: bool
) -> tuple[MethodEstimate, int]:
    """Cells of a method on its targets; `choosing`: with the trials on sources, where they are to be tried and groups
    share them."""
    spec = bench.spec(group.method)
    answers = answering.of(cells)
    if not spec.trains:
        return MethodEstimate(group.method, len(cells), 0, 0, 0.0, 0.0, answers), 0
    tokens, flops, rows, memory = 0, 0.0, 0, 0
    shape, tried = _metaprompt_shape(bench, spec), bench.trials_of(spec, group.shots) * len(set(group.pool))
    pool = set() if group.judges or not must_try(bench, group, cells) else set(group.pool)
    trainings = {}
    for name in group.targets:
        runs = {cell.run for cell in cells if cell.target == name}
        trainings[name] = (tried if pool else 0) + len(runs - pool), min(runs | pool)
    if group.judges and choosing and bench.store.selection(group.chooser) is None:
        trainings |= dict.fromkeys(group.judges, (tried, group.pool[0]))
    for name, (count, run) in trainings.items():
        settings = bench.settings(group.method, group.shots, 0, *run)
        method = settings.method or "mpt"
        length = taken(bench.backbone, settings, method, bench.prompt_length())
        examples = [bench.examples(name, settings)]
        planned = plan_adapt(bench.backbone, examples, length, settings, method, *shape)
        rows += count
        tokens += count * planned.stages[-1].tokens
        flops += count * planned.flops
        memory = max(memory, planned.memory)
    return MethodEstimate(group.method, len(cells), rows, tokens, flops, flops / rate, answers), memory


def together(
    bench: MultitaskBench, group: Group, cells: list[CellPlan], rate: float, answering: AnsweringTime
) -> tuple[MethodEstimate, int]:
    """Cells of a row of a multi-task comparison: its search, and one training per trial and seed for all tasks."""
    name = group.method
    wanted = {(trial, seed) for _, seed in group.pool for trial in range(bench.plan.trials_of(name))}
    wanted |= {(0, cell.seed) for cell in cells if cell.run not in group.pool}
    left = sorted(run for run in wanted if not (bench.training_folder(name, *run) / "line.json").is_file())
    examples = [bench.examples(task, bench.settings("pt", FULL, 0)) for task in group.targets]
    planned = plan_multitask(bench.backbone, examples, bench.foreseen_settings(name))
    tokens, flops = len(left) * planned.stages[0].tokens, len(left) * planned.flops
    if bench.contender(name).search is not None and bench.found(name) is None:
        settings = bench.search_settings()
        seen = search_examples(bench.backbone, bench.searched_on(name), settings)
        search = plan_search(bench.backbone, seen, settings)
        tokens, flops = tokens + search.stages[0].tokens, flops + search.flops
    answers = answering.of(cells)
    return MethodEstimate(name, len(cells), len(left), tokens, flops, flops / rate, answers), planned.memory


def _metaprompt_shape(bench: Workbench, spec: MethodSpec) -> tuple[int, int]:
    """Rank and number of sources of the metaprompt a method starts from."""
    if not spec.needs_metaprompt:
        return 1, 0
    settings = bench.protocol.learn_settings(spec, bench.backbone.preset, 0)
    rank = settings.rank if settings.decomposition else 1
    return rank if settings.students else bench.prompt_length(), len(members(bench.protocol.suite, "source"))


def _sum(name: str, parts: Sequence[MethodEstimate]) -> MethodEstimate:
    return MethodEstimate(
        name,
        sum(p.cells for p in parts),
        sum(p.rows for p in parts),
        sum(p.tokens for p in parts),
        sum(p.flops for p in parts),
        sum(p.train_seconds for p in parts),
        sum(p.predict_seconds for p in parts),
    )


def _full(bench: Workbench, name: str) -> TaskExamples:
    return bench.examples(name, bench.protocol.adapt_settings(METHODS["pt"], bench.backbone.preset, FULL, 0))


def _learned(bench: Workbench, key: str) -> bool:
    return bench.store.metaprompt_line(key) is not None


def _learning(bench: Workbench, missing: Sequence[tuple[str, int]]) -> float:
    """FLOPs of the metaprompts to be learned; the teachers of a seed are counted once."""
    total, seeds = 0.0, set()
    encoded: list[TaskExamples] = []
    for name, seed in missing:
        settings = bench.protocol.learn_settings(METHODS[name], bench.backbone.preset, seed)
        length, position = prompt_shape(bench.backbone, settings)
        if not encoded:
            encoded = [source_examples(bench.backbone, s, settings, length, position) for s in bench.sources()]
        stages = plan_learn(bench.backbone, encoded, length, settings).stages
        total += sum(s.flops for s in stages if seed not in seeds or s.name not in ("teachers", "teacher states"))
        seeds.add(seed)
    return total
