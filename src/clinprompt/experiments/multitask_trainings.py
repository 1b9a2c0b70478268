"""The trainings of a multi-task comparison, each done once: a search where a row has one, then one adapter per trial.

What is spent on them is kept beside them, over interruptions; of every cost a task bears an equal share. A search is
charged to the runs of the first seed, once: all seeds use what it found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from clinprompt.experiments.spending import Cost, Spending, told_cost
from clinprompt.experiments.store import read_json, write_json
from clinprompt.experiments.trainings import Progress, Row, Trained, named
from clinprompt.planning import plan_multitask, plan_search
from clinprompt.prompts.multitask import MultitaskAdapter, load_multitask
from clinprompt.training.multitask import CHECKPOINT, FILE, learn_multitask
from clinprompt.training.search import search, search_examples

if TYPE_CHECKING:
    from clinprompt.experiments.multitask_bench import MultitaskBench

SPENT = "spent.json"


@dataclass(frozen=True)
class Learned:
    """One adapter for all tasks, its mean validation loss per task (NaN without records), and its whole cost."""

    adapter: MultitaskAdapter
    losses: tuple[float, ...]
    cost: Cost


def train_adapters(
    bench: MultitaskBench, name: str, rows: Sequence[Row], progress: Progress | None = None
) -> dict[Row, Trained]:
    """Every task of every training that these rows name by (trial, draw, seed): its file, its loss, its cost's share.

    `name`: the row of the table. What is in the store is read from there.
    """
    found = searched(bench, name, progress)
    names = bench.target_names()
    trained = {}
    for trial, (draw, seed) in dict.fromkeys((row.trial, row.run) for row in rows):
        learned = learn_once(bench, name, trial, seed, progress)
        charged = learned.cost
        if trial == seed == 0:
            charged = replace(charged + search_cost(bench, name, found), trainable=charged.trainable)
        together = tuple(Row(task, trial, draw, seed) for task in names)
        for row, loss in zip(together, learned.losses, strict=True):
            file = learned.adapter.of(row.target)
            trained[row] = Trained(file, loss, share(charged, len(names)), together)
    return trained


def learn_once(bench: MultitaskBench, name: str, trial: int, seed: int, progress: Progress | None = None) -> Learned:
    """One training, from the store if it is there; interrupted, it continues from its checkpoint."""
    folder = bench.training_folder(name, trial, seed)
    note = read_json(folder / "line.json")
    if note is not None and (folder / FILE).is_file():
        losses = tuple(math.nan if loss is None else loss for loss in note["losses"])
        return Learned(load_multitask(folder / FILE), losses, Cost(**note["cost"]))
    settings = bench.training_settings(name, trial, seed)
    with Spending(folder / SPENT) as spent:
        told = spent.progress(named(name, progress))
        learned = learn_multitask(bench.backbone, bench.trainees(), settings, folder, progress=told)
    planned = plan_multitask(bench.backbone, learned.examples, settings).stages[0]
    cost = Cost(planned.parameters, planned.flops, spent.cost.seconds, spent.cost.joules)
    losses = tuple(learned.fit.validation.tolist())
    kept = [None if math.isnan(loss) else loss for loss in losses]
    write_json(folder / "line.json", {"losses": kept, "cost": asdict(cost)})
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return Learned(learned.adapter, losses, cost)


def searched(bench: MultitaskBench, name: str, progress: Progress | None = None) -> dict[str, Any] | None:
    """What a row's search found: architecture, trials, seconds, joules, flops, tokens; None for rows that search
    nothing. It is done once and then read from the store."""
    if bench.contender(name).search is None:
        return None
    found = bench.found(name)
    if found is not None:
        return found
    folder, settings, sources = bench.search_folder(name), bench.search_settings(), bench.searched_on(name)
    with Spending(folder / SPENT) as spent:
        result = search(bench.backbone, sources, settings, folder, progress=spent.progress(progress))
    examples = search_examples(bench.backbone, sources, settings)
    planned = plan_search(bench.backbone, examples, settings)
    found = {"architecture": result.architecture.model_dump(mode="json"), "trials": result.trials}
    found |= {"tokens": result.tokens, "flops": planned.flops}
    found |= {"seconds": spent.cost.seconds, "joules": spent.cost.joules}
    write_json(folder / "found.json", found)
    return found


def search_cost(bench: MultitaskBench, name: str, found: Mapping[str, Any] | None) -> Cost:
    """What finding a row's network has cost: its search here, or what the file of a given one says."""
    if found is not None:
        return Cost(0, found["flops"], found["seconds"], found["joules"])
    return told_cost(bench.backbone, bench.contender(name).architecture)


def share(cost: Cost, tasks: int) -> Cost:
    """A task's part of a cost; the numbers are those of the whole adapter."""
    joules = None if cost.joules is None else cost.joules / tasks
    return Cost(cost.trainable, cost.flops / tasks, cost.seconds / tasks, joules)
