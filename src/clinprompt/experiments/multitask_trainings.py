"""The trainings of a multi-task comparison, each done once: a search where a row has one, then one adapter per trial.

What is spent on them is kept beside them, over interruptions; of every cost a task bears an equal share. A search is
charged to the runs of the first seed, once: all seeds use what it found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clinprompt.backbone.flops import body_parameters
from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.multitask_bench import MultitaskBench
from clinprompt.experiments.results import Cell, Trial
from clinprompt.experiments.store import read_json, write_json
from clinprompt.experiments.trainings import Cost, Row, Trained
from clinprompt.planning import plan_multitask, plan_search
from clinprompt.prompts.multitask import MultitaskAdapter, load_multitask
from clinprompt.training.multitask import CHECKPOINT, FILE, learn_multitask
from clinprompt.training.search import search, search_examples

Progress = Callable[[str, int, int, float], None]
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
    with spending(folder):
        learned = learn_multitask(bench.backbone, bench.trainees(), settings, folder, progress=_named(name, progress))
    planned = plan_multitask(bench.backbone, learned.examples, settings).stages[0]
    spent = read_json(folder / SPENT) or {}
    cost = Cost(planned.parameters, planned.flops, spent["seconds"], spent["joules"])
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
    with spending(folder):
        result = search(bench.backbone, sources, settings, folder, progress=progress)
    examples = search_examples(bench.backbone, sources, settings)
    planned = plan_search(bench.backbone, examples, settings)
    spent = read_json(folder / SPENT) or {}
    found = {"architecture": result.architecture.model_dump(mode="json"), "trials": result.trials}
    found |= {"tokens": result.tokens, "flops": planned.flops, **spent}
    write_json(folder / "found.json", found)
    return found


def search_cost(bench: MultitaskBench, name: str, found: Mapping[str, Any] | None) -> Cost:
    """What finding a row's network has cost: its search here, or what the file of a given one says of seconds and
    tokens (FLOPs then by 4·N per token)."""
    if found is not None:
        return Cost(0, found["flops"], found["seconds"], found["joules"])
    given = bench.contender(name).architecture
    if given is None or not given.search:
        return Cost(joules=0.0)
    tokens = float(given.search.get("tokens", 0))
    return Cost(0, 4.0 * body_parameters(bench.backbone) * tokens, float(given.search.get("seconds", 0)), None)


def share(cost: Cost, tasks: int) -> Cost:
    """A task's part of a cost; the numbers are those of the whole adapter."""
    joules = None if cost.joules is None else cost.joules / tasks
    return Cost(cost.trainable, cost.flops / tasks, cost.seconds / tasks, joules)


def annotated(bench: MultitaskBench, line: Cell) -> Cell:
    """A cell's line with what only a multi-task comparison has: trials of the search, the network chosen, and bytes as
    a task's share of the one file."""
    found = bench.found(line.method) if bench.contender(line.method).search else None
    tried = [_search_trial(trial) for trial in found["trials"]] if found else []
    network = bench.architecture(line.method)
    chosen = line.chosen | ({} if network is None else {"network": _words(network.model_dump())})
    cost = found and {key: found[key] for key in ("seconds", "joules", "flops", "tokens")}
    searched_on = [source.task.name for source in bench.searched_on(line.method)] if found else []
    settings = line.settings | ({"search": {**cost, "trials": len(tried), "tasks": searched_on}} if cost else {})
    stored = round(line.stored_bytes / len(bench.target_names()))
    on = f"mean validation loss of all {len(bench.target_names())} tasks"
    judged = [trial.model_copy(update={"on": on}) for trial in line.trials]
    update = {"trials": (*judged, *tried), "chosen": chosen, "settings": settings, "stored_bytes": stored}
    return line.model_copy(update=update)


def _search_trial(trial: Mapping[str, Any]) -> Trial:
    score = trial["discrete_loss"]
    values = {"network": _words(trial["architecture"])}
    return Trial(
        values=values, score=None if score is None else round(score, 6), on="search: validation loss of its tasks"
    )


def _words(network: Mapping[str, Any]) -> str:
    chain = " → ".join(network["operations"])
    return f"{chain} (width {network['width']}, hidden {network['hidden']}, length {network['length']})"


def _named(name: str, progress: Progress | None) -> Callable[[int, int, float], None] | None:
    return (lambda done, total, loss: progress(name, done, total, loss)) if progress else None


@contextmanager
def spending(folder: Path) -> Iterator[None]:
    """Adds the seconds and joules spent inside to the folder's note, also when it is interrupted."""
    before = read_json(folder / SPENT) or {"seconds": 0.0, "joules": 0.0}
    began, meter = time.monotonic(), EnergyMeter()
    try:
        yield
    finally:
        joules, known = meter.joules(), before["joules"]
        whole = None if joules is None or known is None else known + joules
        write_json(folder / SPENT, {"seconds": before["seconds"] + time.monotonic() - began, "joules": whole})
