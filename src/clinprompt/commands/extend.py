"""`clinprompt learn --extend`: new source tasks beside those of a metaprompt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinprompt.commands import options as o
from clinprompt.commands.output import duration, print_json, print_table, remark, say, size, stage_bars

if TYPE_CHECKING:
    from clinprompt.backbone.model import Backbone
    from clinprompt.prompts.artifact import Metaprompt
    from clinprompt.training.extend import Extended
    from clinprompt.training.learn import SourceTask
    from clinprompt.training.settings import ExtendSettings

KEPT = {
    "freeze": "P* and the vectors of the old tasks are unchanged, bit for bit",
    "replay": "P* and all vectors were trained on, with the old tasks' data replayed",
}


@dataclass(frozen=True)
class Request:
    """What `learn --extend` was asked for; `overrides` are settings given as options."""

    parent: str
    tasks: Sequence[str]
    out: Path
    old: Sequence[str]
    data_dir: Path | None
    config: Path | None
    overrides: dict[str, Any]
    score: int
    dry_run: bool
    flops_per_second: float | None


def extend(request: Request, choice: o.ModelChoice, as_json: bool, quiet: bool) -> None:
    """Run (or plan) an extension and report the old sources before and after."""
    from clinprompt import api
    from clinprompt.training.processes import current_processes
    from clinprompt.training.settings import ExtendSettings
    from clinprompt.upkeep import extending

    processes = current_processes()
    parent = api.load_artifact_as(request.parent, "metaprompt")
    model = choice.load(api.backbone_of(parent))
    settings = api.settings_for(ExtendSettings, model.preset, request.config, request.overrides)
    extending.require_other_place(parent, request.out)
    known = extending.old_sources(parent, request.old, request.data_dir)
    if processes.main:
        for name, reason in known.missing.items():
            remark(f"old task {name}: no data ({reason}); it is not measured", quiet or as_json)
    if request.dry_run:
        _plan(request, model, parent, known.found, settings, as_json)
        return
    began = time.monotonic()
    with stage_bars(processes.main and not (as_json or quiet)) as bar:
        found = extending.extend(
            parent,
            request.tasks,
            request.out,
            old=known,
            backbone=model,
            data_dir=request.data_dir,
            settings=settings,
            score=request.score,
            processes=processes,
            progress=bar,
        )
    if processes.main:
        remark(f"done in {duration(time.monotonic() - began)}", quiet or as_json)
        _report(parent, found, known.missing, request.out / "metaprompt.safetensors", as_json)


def _plan(
    request: Request,
    model: Backbone,
    parent: Metaprompt,
    old: Sequence[SourceTask],
    settings: ExtendSettings,
    as_json: bool,
) -> None:
    from clinprompt.commands.plans import print_plan
    from clinprompt.planning import plan_extend
    from clinprompt.training.extend import inherited
    from clinprompt.training.learn import source_examples
    from clinprompt.upkeep import extending

    length, position, settings = len(parent.shared), parent.card.position, inherited(parent, settings)
    new = extending.new_sources(request.tasks, request.data_dir)
    known, fresh = (
        [source_examples(model, source, settings, length, position) for source in sources] for sources in (old, new)
    )
    estimate = plan_extend(model, known, fresh, length, settings)
    print_plan("learn --extend", estimate, model, fresh, length, request.flops_per_second, as_json)


def _report(parent: Metaprompt, found: Extended, missing: dict[str, str], path: Path, as_json: bool) -> None:
    """Old sources before and after, then the new ones."""
    card = found.metaprompt.card
    extension, scores = card.metrics["extension"], card.metrics["extension"].get("old_scores", {})
    old = [_old_row(name, found, scores.get(name)) for name in parent.names]
    new = [
        {
            "task": e.name,
            "examples": len(e.train),
            "skipped": e.skipped,
            "validation_loss": card.metrics["validation_loss"].get(e.name),
        }
        for e in found.examples
    ]
    if as_json:
        facts = {"file": str(path), "bytes": path.stat().st_size, "digest": card.digest, "parent": card.parent}
        print_json(facts | {"keep": extension["keep"], "old": old, "new": new, "unmeasured": sorted(missing)})
        return
    columns = ["task", "loss_before", "loss_after", *(["metric", "n", "before", "after"] if scores else [])]
    title = "Old source tasks (loss per answer token on validation)"
    print_table(title, columns, [[row.get(column) for column in columns] for row in old])
    columns = ["task", "examples", "validation_loss"]
    print_table("New source tasks", columns, [[row[column] for column in columns] for row in new])
    for row in new:
        if row["skipped"]:
            say(f"{row['task']}: {row['skipped']} examples longer than the context were left out")
    say(f"{path}: {size(path.stat().st_size)}, digest {card.digest}, parent {card.parent}; {KEPT[extension['keep']]}")
    say(
        f"Task files that hold vectors only (mode vectors) and were made on {card.parent} still need that file: keep it"
    )


def _old_row(name: str, found: Extended, scored: dict[str, Any] | None) -> dict[str, Any]:
    losses = {"loss_before": found.before.get(name), "loss_after": found.after.get(name)}
    return {"task": name, **losses, **(scored or {})}
