"""`clinprompt learn SUITE --method NAME`: one adapter for all tasks of a suite."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinprompt.commands.options import ModelChoice
from clinprompt.commands.output import duration, interval, print_json, print_table, remark, say, size, stage_bars
from clinprompt.errors import TrainingError


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    suite: str
    method: str
    out: Path
    data_dir: Path | None
    config: Path | None
    overrides: Mapping[str, Any]
    score: int


def learn_together(asked: Request, choice: ModelChoice, as_json: bool, quiet: bool) -> None:
    """Train, write and report. Raises TrainingError for methods that are none of these."""
    from clinprompt import api
    from clinprompt.evaluation.evaluate import evaluate_records
    from clinprompt.training.multitask import FILE, learn_multitask
    from clinprompt.training.multitask_banks import multitask_parameters
    from clinprompt.training.processes import current_processes

    processes = current_processes()
    model = choice.load(api.EMBEDDED)
    settings = api.multitask_settings(asked.method, asked.config, dict(asked.overrides))
    sources = api.source_tasks(asked.suite, asked.data_dir)
    began = time.monotonic()
    with stage_bars(processes.main and not (as_json or quiet)) as bar:
        progress = (lambda done, total, loss: bar(asked.method, done, total, loss)) if bar else None
        learned = learn_multitask(model, sources, settings, asked.out, processes=processes, progress=progress)
    if not processes.main:
        return
    remark(f"done in {duration(time.monotonic() - began)}", quiet or as_json)
    rows = []
    for source, examples, loss in zip(sources, learned.examples, learned.fit.validation.tolist(), strict=True):
        found: dict[str, Any] = {"task": source.task.name, "type": source.task.type, "examples": len(examples.train)}
        found |= {"skipped": examples.skipped, "validation_loss": loss if loss == loss else None}
        if asked.score and source.validation:
            who = api.answerer(model, learned.adapter, source=source.task.name)
            scored = evaluate_records(who, source.validation, split="validation", limit=asked.score)
            found |= {"n": scored.n, "metric": scored.headline, "score": scored.summary()["metrics"][scored.headline]}
            found["shown"] = interval(scored.value)
        rows.append(found)
    path = asked.out / FILE
    trained = multitask_parameters(model, len(sources), asked.method, settings.adapter)
    if as_json:
        facts = {"file": str(path), "bytes": path.stat().st_size, "method": asked.method, "parameters": trained}
        print_json(facts | {"digest": learned.adapter.card.digest, "tasks": rows})
        return
    columns = ["task", "type", "examples", "validation_loss", *(["metric", "score"] if asked.score else [])]
    fields = ["shown" if c == "score" else c for c in columns]
    title = f"{asked.method}: one adapter for {len(rows)} tasks (loss per answer token on validation)"
    print_table(title, columns, [[row.get(c) for c in fields] for row in rows])
    for row in rows:
        if row["skipped"]:
            say(f"{row['task']}: {row['skipped']} examples longer than the context were left out")
    say(f"{path}: {trained:,} numbers, {size(path.stat().st_size)}. Next: clinprompt evaluate {path} --task NAME")


def check_options(method: str, given: Mapping[str, Any]) -> None:
    """Raises TrainingError for options that mean something to MPT only."""
    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise TrainingError(f"--method {method}: {', '.join(wrong)} belongs to `learn` without --method; leave it out.")


def network(path: Path | None) -> dict[str, Any] | None:
    """What an architecture file says, as a setting of peml; None without a file."""
    from clinprompt.architecture.discrete import load_architecture

    return None if path is None else load_architecture(path).bare().model_dump(mode="json")
