"""Running a unit: try the trials, choose one on validation data, train the other runs with it, score on test.

Test records are read by `answer_cells` and by nothing before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from clinprompt.experiments.answering import Answers, answer_cells, in_company
from clinprompt.experiments.cells import CellPlan, Group, Unit
from clinprompt.experiments.choosing import Choice, choose, must_try
from clinprompt.experiments.claims import Claims
from clinprompt.experiments.lines import machine, scored
from clinprompt.experiments.results import Cell
from clinprompt.experiments.spending import Cost
from clinprompt.experiments.trainings import Progress, Row, Trained, forget
from clinprompt.experiments.workbench import Workbench
from clinprompt.methods.registry import MethodSpec
from clinprompt.version import __version__


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
        answers = answer_cells(bench, cells, [trained[row] for row in company], company, progress)
        for index, found in zip(part, answers, strict=True):
            (group, cell), row = todo[index], rest[index]
            choice = choices[group.selection]
            line = score_cell(bench, spec, cell, choice, _with_tuning(row, trained, choice, group), answers=found)
            _finish(bench, bench.annotated(line), finished)
    forget(bench, {name: name for group, _ in pending for name in (group.selection, group.choice)})


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
    answers = answers or answer_cells(bench, [cell], [trained], (), progress)[0]
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
        chosen=dict(bench.grid(spec, cell.shots)[choice.chosen]) if choice and spec.trains else {},
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
