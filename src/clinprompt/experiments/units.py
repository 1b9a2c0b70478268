"""Running a unit: try the trials, choose one on validation data, train the other runs with it, score on test.

Test records are read by `answer_cells` and by nothing before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from clinprompt.errors import TrainingError
from clinprompt.evaluation.answerer import Answerer, answers_together, in_context, of_task, zero_shot
from clinprompt.experiments.cells import CellPlan, Group, Unit
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.lines import machine, scored
from clinprompt.experiments.protocol import ZERO_SHOT
from clinprompt.experiments.results import Cell, Trial
from clinprompt.experiments.spending import Cost
from clinprompt.experiments.trainings import Progress, Row, Trained, forget
from clinprompt.experiments.workbench import Workbench
from clinprompt.methods.registry import MethodSpec
from clinprompt.tasks.codec import Prediction
from clinprompt.version import __version__


@dataclass(frozen=True)
class Choice:
    """The trials of a group with their mean validation losses, which one was chosen, and in which trainings. `cost`:
    FLOPs and seconds of a choice that groups share; else its cells carry them."""

    trials: tuple[Trial, ...]
    chosen: int
    trainings: tuple[tuple[Row, ...], ...]
    cost: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        return ({"cost": self.cost} if self.cost else {}) | {
            "trials": [trial.model_dump(mode="json") for trial in self.trials],
            "chosen": self.chosen,
            "trainings": [[row.as_list() for row in rows] for rows in self.trainings],
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Choice:
        trials = tuple(Trial.model_validate(trial) for trial in found["trials"])
        trainings = tuple(tuple(Row(*r) for r in rows) for rows in found["trainings"])
        return cls(trials, found["chosen"], trainings, found.get("cost"))


def run_unit(
    bench: Workbench,
    unit: Unit,
    claims: Claims,
    *,
    rows: int,
    finished: Callable[[Cell], None],
    progress: Progress | None = None,
) -> bool:
    """Compute the unit's cells that are not in the store; `finished` is called with each.

    False, and nothing is done, if another worker holds one of them: ask again later.
    """
    pending = _pending(bench, unit)
    names = {name for group, cells in pending for name in bench.claimed(group, cells)}
    if not claims.take(names):
        return False
    try:
        pending = _pending(bench, unit)  # another worker may have finished some before the claim was ours
        if pending:
            _run(bench, pending, rows, finished, progress)
    finally:
        claims.release(names)
    return True


def _pending(bench: Workbench, unit: Unit) -> list[tuple[Group, list[CellPlan]]]:
    found = [(group, [c for c in group.cells if not bench.store.has_cell(c.id)]) for group in unit.groups]
    return [(group, cells) for group, cells in found if cells]


def _run(
    bench: Workbench,
    pending: Sequence[tuple[Group, list[CellPlan]]],
    rows: int,
    finished: Callable[[Cell], None],
    progress: Progress | None,
) -> None:
    first = pending[0][0]
    spec = bench.spec(first.method)
    if not spec.trains:
        for _, cells in pending:
            for cell in cells:
                _finish(bench, score_cell(bench, spec, cell, None, None, progress), finished)
        return
    trainer = _Trainer(bench, spec, [group for group, _ in pending], rows, progress)
    tuned = trainer.tuned([group for group, cells in pending if must_try(bench, group, cells)])
    choices = {group.selection: choose(bench, group, tuned) for group, _ in pending}
    todo = [(group, cell) for group, cells in pending for cell in cells]
    rest = [_row(cell, choices[group.selection]) for group, cell in todo]
    trained = tuned | trainer.train([row for row in trainer.companions(rest) if row not in tuned])
    for part in in_company([trained[row] for row in rest], [row.target for row in rest]):
        cells = [todo[i][1] for i in part]
        company = [rest[i] for i in part]
        answers = answer_cells(bench, spec, cells, [trained[row] for row in company], company, progress)
        for index, found in zip(part, answers, strict=True):
            (group, cell), row = todo[index], rest[index]
            choice = choices[group.selection]
            line = score_cell(bench, spec, cell, choice, _with_tuning(row, trained, choice, group), answers=found)
            _finish(bench, bench.annotated(line), finished)
    forget(bench, {name: name for group, _ in pending for name in (group.selection, group.choice)})


def must_try(bench: Workbench, group: Group, cells: Sequence[CellPlan]) -> bool:
    """Whether the group's trials have to be trained for these cells: until one is chosen, and for the cells of a run
    that tries them, whose cost is that of all trials. A choice that groups share is tried once."""
    if bench.store.selection(group.choice) is None:
        return True
    return not group.judges and any(cell.run in group.pool for cell in cells)


@dataclass(frozen=True)
class _Trainer:
    """Trains rows of groups that share a method and a number of shots."""

    bench: Workbench
    spec: MethodSpec
    groups: Sequence[Group]
    most: int
    progress: Progress | None

    def tuned(self, groups: Sequence[Group]) -> dict[Row, Trained]:
        """Every trial on every run of the pool of these groups."""
        trials = range(self.bench.trials_of(self.spec, self.groups[0].shots))
        wanted = dict.fromkeys(
            Row(name, trial, *run)
            for group in groups
            for run in group.pool
            for trial in trials
            for name in group.judged_on
        )
        return self.train(list(wanted))

    def companions(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with all targets that share their P*."""
        if self.spec.adapt.get("mode") != "group":
            return list(rows)
        distinct = dict.fromkeys((row.trial, row.run) for row in rows)
        return [Row(target, trial, *run) for trial, run in distinct for target in self.groups[0].targets]

    def train(self, rows: Sequence[Row]) -> dict[Row, Trained]:
        """These rows, and rows of an interrupted training that one of them belongs to."""
        selections = {name: group.choice for group in self.groups for name in group.judged_on}
        selections |= {target: group.selection for group in self.groups for target in group.targets}
        name = self.groups[0].name if len(self.groups) == 1 else f"{self.spec.name} {len(self.groups)} targets"
        return self.bench.train(
            self.spec,
            self.groups[0].shots,
            rows,
            selections=selections,
            most=self.most,
            name=name,
            progress=self.progress,
        )


def choose(bench: Workbench, group: Group, tuned: dict[Row, Trained]) -> Choice:
    """The trial with the lowest mean validation loss over the pool's runs (and the group's targets, or its judges).

    A trial that lost its way in one run (no finite loss) is not chosen. Raises TrainingError if all did.
    """
    spec = bench.spec(group.method)
    grid = [dict(changes) for changes in spec.grid[: bench.trials_of(spec, group.shots)]]
    if not group.pool:
        return Choice((), 0, ())
    stored = bench.store.selection(group.choice)
    if stored is not None:
        return Choice.from_json(stored)
    means = [
        sum(tuned[Row(name, trial, *run)].loss for run in group.pool for name in group.judged_on)
        / (len(group.pool) * len(group.judged_on))
        for trial in range(len(grid))
    ]
    finite = [trial for trial, mean in enumerate(means) if math.isfinite(mean)]
    if not finite:
        raise TrainingError(f"{group.name}: no trial of the grid has a validation loss; are there validation records?")
    whose = ("the sources " if group.judges else "") + ", ".join(group.judged_on)
    on = f"validation loss of {whose}, mean over {len(group.pool)} runs"
    trials = tuple(
        Trial(values=changes, score=round(mean, 6) if math.isfinite(mean) else None, on=on)
        for changes, mean in zip(grid, means, strict=True)
    )
    tried = [
        tuned[Row(name, trial, *run)] for name in group.judged_on for run in group.pool for trial in range(len(grid))
    ]
    whole = sum((one.cost for one in tried), Cost(joules=0.0))
    cost = {"flops": whole.flops, "seconds": round(whole.seconds, 3)} if group.judges else None
    trainings = tuple(dict.fromkeys(one.rows for one in tried))
    choice = Choice(trials, min(finite, key=lambda trial: means[trial]), trainings, cost)
    return Choice.from_json(bench.store.keep_selection(group.choice, choice.as_json()))


@dataclass(frozen=True)
class Answers:
    """What a cell says about the test records, and its share of what answering cost. `company`: the rows whose answers
    shared batches with it, itself among them; empty if it was alone."""

    predictions: Sequence[Prediction]
    seconds: float
    joules: float | None
    company: tuple[Row, ...] = ()
    in_context: dict[str, float | int] | None = None

    def noted(self) -> dict[str, Any]:
        """What of it belongs into a line's settings."""
        found: dict[str, Any] = {"in_context": self.in_context} if self.in_context else {}
        return found | ({"answered_with": [row.as_list() for row in self.company]} if self.company else {})


def in_company(trained: Sequence[Trained], targets: Sequence[str]) -> list[list[int]]:
    """Which of these rows are answered together: soft prompts of one target that come from one training (so that the
    trainings a line names are enough to compute it again)."""
    parts: dict[Any, list[int]] = {}
    for index, (one, target) in enumerate(zip(trained, targets, strict=True)):
        key = index if one.file.is_adapter else (target, one.rows)
        parts.setdefault(key, []).append(index)
    return list(parts.values())


def answer_cells(
    bench: Workbench,
    spec: MethodSpec,
    cells: Sequence[CellPlan],
    trained: Sequence[Trained | None],
    rows: Sequence[Row],
    progress: Progress | None = None,
) -> list[Answers]:
    """Answer the test records of one target, for several cells in shared batches; `rows` are those of the cells."""
    target, shown = cells[0].target, progress
    gold = bench.test_records(target)
    answerers = [_answerer(bench, spec, cell, one) for cell, one in zip(cells, trained, strict=True)]
    told = (lambda done, total: shown(f"test of {target}", done, total, math.nan)) if shown else None
    began, meter = time.monotonic(), EnergyMeter()
    if len(cells) == 1:
        found = [answerers[0].answers(gold, told)]
    else:
        found = answers_together(answerers, gold, told)
    seconds, joules = (time.monotonic() - began) / len(cells), meter.joules()
    shown_examples = answerers[0].in_context
    company = tuple(rows) if len(cells) > 1 else ()
    return [
        Answers(
            predictions,
            seconds,
            None if joules is None else joules / len(cells),
            company,
            shown_examples.summary() if shown_examples else None,
        )
        for predictions in found
    ]


def score_cell(
    bench: Workbench,
    spec: MethodSpec,
    cell: CellPlan,
    choice: Choice | None,
    trained: Trained | None,
    progress: Progress | None = None,
    answers: Answers | None = None,
) -> Cell:
    """Answer the target's test records, unless these are the `answers`, and make the cell's line."""
    answers = answers or answer_cells(bench, spec, [cell], [trained], (), progress)[0]
    data, gold = bench.target(cell.target), bench.test_records(cell.target)
    joules, settings = answers.joules, _settings(bench, cell.method, choice, trained)
    cost = trained.cost if trained else Cost(joules=0.0)
    stored = trained.file.tensors.values() if trained and cell.shots != 0 else ()
    metaprompt = bench.metaprompt(spec, cell.seed)
    return Cell(
        id=cell.id,
        suite=bench.suite,
        target=cell.target,
        type=data.task.type,
        method=cell.method,
        shots=cell.shots,
        draw=cell.draw,
        seed=cell.seed,
        **scored(data.task, gold, answers.predictions),
        n_all=bench.available(cell.target),
        trials=choice.trials if choice else (),
        chosen=dict(spec.grid[choice.chosen]) if choice and spec.grid else {},
        trainable=cost.trainable,
        trainable_percent=round(100 * cost.trainable / bench.backbone.parameters, 6),
        stored_bytes=sum(t.numel() * t.element_size() for t in stored),
        flops=cost.flops,
        train_seconds=round(cost.seconds, 3),
        predict_seconds=round(answers.seconds, 3),
        joules=None if joules is None or cost.joules is None else round(joules + cost.joules, 1),
        backbone=bench.backbone.name,
        fingerprint=bench.backbone.fingerprint,
        metaprompt=metaprompt.digest if metaprompt else "",
        settings=settings | answers.noted(),
        library=__version__,
        machine=machine(),
    )


def _answerer(bench: Workbench, spec: MethodSpec, cell: CellPlan, trained: Trained | None) -> Answerer:
    limit = bench.answer_limit(cell.target)
    data = bench.target(cell.target)
    if trained is not None:
        return replace(of_task(bench.backbone, trained.file, data.task), limit=limit)
    settings = bench.settings(spec.name, cell.shots, 0, cell.draw, cell.seed)
    if spec.name == ZERO_SHOT:
        asked = zero_shot(bench.backbone, data.task, limit)
        return replace(asked, reserve=settings.target_reserve, window=settings.window)
    train, shots = data.splits["train"], int(cell.shots)
    shown = in_context(bench.backbone, data.task, train, shots, draw=cell.draw, seed=cell.seed, limit=limit)
    return replace(shown, window=settings.window)


def _settings(bench: Workbench, method: str, choice: Choice | None, trained: Trained | None) -> dict[str, Any]:
    """All that is needed to run the cell again: the protocol, and which rows trained together with it."""
    trainings = list(choice.trainings if choice else ())
    if trained is not None and trained.rows not in trainings:
        trainings.append(trained.rows)
    return {
        **bench.described(method),
        "trainings": [[row.as_list() for row in rows] for rows in trainings],
        **({"choosing": choice.cost} if choice and choice.cost else {}),
        "threads": torch.get_num_threads(),
        "device": bench.backbone.device.type,
        "numerics": bench.backbone.numerics,
    }


def _row(cell: CellPlan, choice: Choice) -> Row:
    return Row(cell.target, choice.chosen, cell.draw, cell.seed)


def _with_tuning(row: Row, trained: dict[Row, Trained], choice: Choice, group: Group) -> Trained:
    """A row that carries the cost of all trials of its run; runs outside the pool, and those whose trials were tried
    on sources, tried one."""
    own = trained[row]
    if row.run not in group.pool or group.judges:
        return own
    whole = [trained[replace(row, trial=trial)].cost for trial in range(len(choice.trials))]
    return replace(own, cost=replace(sum(whole[1:], whole[0]), trainable=own.cost.trainable))


def _finish(bench: Workbench, line: Cell, finished: Callable[[Cell], None]) -> None:
    bench.store.keep_cell(line.model_dump(mode="json"))
    finished(line)
