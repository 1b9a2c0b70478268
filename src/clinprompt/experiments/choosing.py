"""Which trial of a grid is taken: by the loss on validation records, or by the score of the answers to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clinprompt.errors import TrainingError
from clinprompt.evaluation.answerer import answers_together, of_task
from clinprompt.experiments.answering import in_company
from clinprompt.experiments.cells import CellPlan, Group
from clinprompt.experiments.results import Trial
from clinprompt.experiments.spending import Cost
from clinprompt.experiments.trainings import Row, Trained
from clinprompt.experiments.workbench import Workbench
from clinprompt.tasks.metrics import headline, score
from clinprompt.training.examples import sample_records


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


def must_try(bench: Workbench, group: Group, cells: Sequence[CellPlan]) -> bool:
    """Whether the group's trials have to be trained for these cells: until one is chosen, and for the cells of a run
    that tries them, whose cost is that of all trials. A choice that groups share is tried once."""
    if bench.store.selection(group.choice) is None:
        return True
    return not group.judges and any(cell.run in group.pool for cell in cells)


def choose(bench: Workbench, group: Group, tuned: dict[Row, Trained]) -> Choice:
    """The trial with the lowest mean validation loss over the pool's runs and the group's targets (or its judges); with
    `choose_by: score` the one with the highest mean score, of equal ones that with the lowest loss.

    A trial that lost its way in one run (no finite loss) is not chosen. Raises TrainingError if all did.
    """
    spec = bench.spec(group.method)
    grid = [dict(changes) for changes in bench.grid(spec, group.shots)[: bench.trials_of(spec, group.shots)]]
    if not group.pool:
        return Choice((), 0, ())
    stored = bench.store.selection(group.choice)
    if stored is not None:
        return Choice.from_json(stored)
    rows = [[Row(name, trial, *run) for run in group.pool for name in group.judged_on] for trial in range(len(grid))]
    losses = [_mean([tuned[row].loss for row in part]) for part in rows]
    finite = [trial for trial, loss in enumerate(losses) if math.isfinite(loss)]
    if not finite:
        raise TrainingError(f"{group.name}: no trial of the grid has a validation loss; are there validation records?")
    judged, by_score = losses, bench.protocol.choose_by == "score"
    if by_score:
        scores = _scores(bench, tuned, [row for trial in finite for row in rows[trial]])
        judged = [_mean([scores[row] for row in part]) if t in finite else math.nan for t, part in enumerate(rows)]
    whose = ("the sources " if group.judges else "") + ", ".join(group.judged_on)
    on = f"validation {bench.protocol.choose_by} of {whose}, mean over {len(group.pool)} runs"
    trials = tuple(
        Trial(values=changes, score=round(mean, 6) if math.isfinite(mean) else None, on=on, minimise=not by_score)
        for changes, mean in zip(grid, judged, strict=True)
    )
    best = min(finite, key=lambda trial: (-judged[trial] if by_score else 0.0, losses[trial]))
    tried = [
        tuned[Row(name, trial, *run)] for name in group.judged_on for run in group.pool for trial in range(len(grid))
    ]
    cost = _cost(tried) if group.judges else None
    choice = Choice(trials, best, tuple(dict.fromkeys(one.rows for one in tried)), cost)
    return Choice.from_json(bench.store.keep_selection(group.choice, choice.as_json()))


def _scores(bench: Workbench, tuned: dict[Row, Trained], rows: Sequence[Row]) -> dict[Row, float]:
    """The headline metric (0 to 100) of what each row answers to the validation records; 0 where it is undefined."""
    found = {}
    for part in in_company([tuned[row] for row in rows], [row.target for row in rows]):
        some = [rows[i] for i in part]
        data = bench.trainee(some[0].target)
        held = sample_records(data.task.name, data.validation, bench.protocol.limits.validation)
        who = [replace(of_task(bench.backbone, tuned[row].file), limit=bench.answer_limit(row.target)) for row in some]
        for row, predictions in zip(some, answers_together(who, held), strict=True):
            value = score(data.task, held, predictions)[headline(data.task)].value
            found[row] = 0.0 if math.isnan(value) else value
    return found


def _cost(tried: Sequence[Trained]) -> dict[str, float]:
    whole = sum((one.cost for one in tried), Cost(joules=0.0))
    return {"flops": whole.flops, "seconds": round(whole.seconds, 3)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
