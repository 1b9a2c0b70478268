"""Rows that train together: which they are, what came out, and what each has cost.

A row is (target, trial, draw, seed). All rows of one method and number of shots can share a training; those that start
from a metaprompt share one per seed, those whose targets share a P* one per trial and run. What a training consists of
is written down before it starts, so that an interrupted one is continued with the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clinprompt.backbone.model import Backbone
from clinprompt.experiments.cells import Run
from clinprompt.experiments.protocol import Shots
from clinprompt.experiments.spending import Cost, Spending
from clinprompt.experiments.store import read_json
from clinprompt.methods.registry import MethodSpec
from clinprompt.planning import plan_adapt
from clinprompt.prompts.artifact import Metaprompt, TaskPrompt
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.banks import taken
from clinprompt.training.identity import digest_of
from clinprompt.training.settings import AdaptSettings

if TYPE_CHECKING:
    from clinprompt.experiments.workbench import Workbench

Progress = Callable[[str, int, int, float], None]  # what, done, total, loss
Steps = Callable[[int, int, float], None]
Selections = Mapping[str, str]
"""Target → identity of its group's selection."""


def named(name: str, progress: Progress | None) -> Steps | None:
    """The progress of one thing among several."""
    return (lambda done, total, loss: progress(name, done, total, loss)) if progress else None


@dataclass(frozen=True, order=True, slots=True)
class Row:
    """One row of a training."""

    target: str
    trial: int
    draw: int
    seed: int

    @property
    def run(self) -> Run:
        return self.draw, self.seed

    def as_list(self) -> list[Any]:
        return [self.target, self.trial, self.draw, self.seed]


@dataclass(frozen=True)
class Trained:
    """A row after training: its file, its validation loss (NaN without validation, infinite if it diverged), its cost,
    and its companions."""

    file: TaskPrompt
    loss: float
    cost: Cost
    rows: tuple[Row, ...]


def batches(spec: MethodSpec, rows: Sequence[Row], most: int) -> list[tuple[Row, ...]]:
    """Rows into trainings of at most `most` rows (a group of targets that share P* is never cut)."""
    keys: dict[Any, list[Row]] = {}
    together = spec.adapt.get("mode") == "group"
    for row in rows:
        key = (row.trial, row.run) if together else row.seed if spec.needs_metaprompt else 0
        keys.setdefault(key, []).append(row)
    size = max(1, len(rows)) if together else most
    return [tuple(part[i : i + size]) for part in keys.values() for i in range(0, len(part), size)]


def train(
    bench: Workbench,
    spec: MethodSpec,
    shots: Shots,
    rows: Sequence[Row],
    *,
    selections: Selections,
    most: int,
    progress: Steps | None = None,
) -> dict[Row, Trained]:
    """Train rows, those of an interrupted training together with its other rows again, from its checkpoint."""
    begun = _begun(bench, selections)
    found: dict[Row, Trained] = {}
    new = []
    for row in rows:
        if row not in begun:
            new.append(row)
        elif row not in found:
            companions, noted = begun[row]
            found |= train_together(bench, spec, shots, companions, selections=noted, progress=progress)
    for part in batches(spec, new, most):
        own = {target: selections[target] for target in sorted({row.target for row in part})}
        found |= train_together(bench, spec, shots, part, selections=own, progress=progress)
    return found


def train_together(
    bench: Workbench,
    spec: MethodSpec,
    shots: Shots,
    rows: tuple[Row, ...],
    *,
    selections: Selections | None = None,
    progress: Steps | None = None,
) -> dict[Row, Trained]:
    """One training of exactly these rows. With `selections` its state is kept in the store until `forget`."""
    settings = [bench.settings(spec.name, shots, row.trial, row.draw, row.seed) for row in rows]
    plans = [Plan(bench.trainee(row.target), each) for row, each in zip(rows, settings, strict=True)]
    metaprompt = bench.metaprompt(spec, rows[0].seed)
    about = {"selections": dict(selections or {}), "rows": [row.as_list() for row in rows]}
    checkpoint = bench.store.training(digest_of(about)) if selections else None
    with Spending(checkpoint and checkpoint.with_suffix(".json"), about) as spent:
        result = adapt(
            bench.backbone if spec.needs_metaprompt else _placed(bench),
            metaprompt,
            plans,
            prompt_length=None if spec.needs_metaprompt else bench.prompt_length(),
            checkpoint=checkpoint,
            progress=spent.progress(progress),
            tolerant=True,  # a rate of the grid that is too high is not chosen; it ends no sweep
        )
    costs = _costs(bench, rows, settings, metaprompt, spent.cost)
    losses = result.fit.validation.tolist()
    return {
        row: Trained(file, float(loss), cost, rows)
        for row, file, loss, cost in zip(rows, result.tasks, losses, costs, strict=True)
    }


def _placed(bench: Workbench) -> Backbone:
    """The backbone, with prompts that start from no metaprompt where the sweep's metaprompts have theirs."""
    preset, position = bench.backbone.preset, bench.prompt_position()
    if preset.prompt_position == position:
        return bench.backbone
    return replace(bench.backbone, preset=preset.model_copy(update={"prompt_position": position}))


def forget(bench: Workbench, selections: Selections) -> None:
    """Delete the checkpoints of the trainings of these groups, whose cells are finished; also of those that groups were
    part of which were finished before an interruption."""
    done = set(selections.values())
    notes = {path: read_json(path) for path in (bench.store.work / "trainings").glob("*.json")}
    groups = {path: set(note["selections"].values()) for path, note in notes.items() if note is not None}
    finished = done | (_finished(bench) if any(of & done and of - done for of in groups.values()) else set())
    for path, of in groups.items():
        if of <= done or (of & done and of <= finished):
            path.with_suffix(".safetensors").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _finished(bench: Workbench) -> set[str]:
    """The selections of the sweep's groups that have all their cells."""
    groups = bench.groups()
    return {group.selection for group in groups if all(bench.store.has_cell(cell.id) for cell in group.cells)}


def _costs(
    bench: Workbench,
    rows: Sequence[Row],
    settings: Sequence[AdaptSettings],
    metaprompt: Metaprompt | None,
    spent: Cost,
) -> list[Cost]:
    """Each row's FLOPs, as if it had trained alone, and its share of the measured time by its share of the FLOPs."""
    planned = []
    rank, sources = (metaprompt.u.shape[2], metaprompt.u.shape[0]) if metaprompt else (1, 0)
    for row, each in zip(rows, settings, strict=True):
        examples = [bench.examples(row.target, each)]
        method = each.method or "mpt"
        length = taken(bench.backbone, each, method, bench.prompt_length())
        planned.append(plan_adapt(bench.backbone, examples, length, each, method, rank, sources))
    whole = sum(estimate.flops for estimate in planned)
    shares = [estimate.flops / whole if whole else 1 / len(rows) for estimate in planned]
    return [
        Cost(
            estimate.stages[-1].parameters if estimate.stages[-1].steps else 0,
            estimate.flops,
            spent.seconds * share,
            None if spent.joules is None else spent.joules * share,
        )
        for estimate, share in zip(planned, shares, strict=True)
    ]


def _begun(bench: Workbench, selections: Selections) -> dict[Row, tuple[tuple[Row, ...], dict[str, str]]]:
    """Rows of trainings that were begun and not forgotten: with what they train, under which selections."""
    found = {}
    for path in sorted((bench.store.work / "trainings").glob("*.json")):
        note = read_json(path) or {"rows": []}
        rows = tuple(Row(*row) for row in note["rows"])
        for row in rows:
            if selections.get(row.target) == note["selections"][row.target]:
                found[row] = (rows, note["selections"])
    return found
