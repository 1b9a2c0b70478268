"""`clinprompt adapt`: a metaprompt and some examples → a task file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import duration, interval, print_json, print_table, remark, size, stage_bars, steps
from clinprompt.errors import TrainingError

if TYPE_CHECKING:
    from clinprompt.backbone.model import Backbone
    from clinprompt.prompts.artifact import Metaprompt, TaskPrompt
    from clinprompt.suites import TaskData
    from clinprompt.training.settings import AdaptSettings

NO_METAPROMPT = "none"
# Options that only some methods have.
OWN_OPTIONS = {
    "--mode": ("mpt",),
    "--own-length": ("mpt", "pt"),
    "--start": ("mpt", "spot"),
    "--vector-learning-rate": ("mpt",),
    "--prompt-length": ("pt", "prefix", "lora+prefix", "peml"),
    "--rank": ("lora", "lora+prefix", "peml"),
    "--targets": ("lora", "lora+prefix", "peml"),
    "--order": ("lora+prefix", "peml"),
    "--architecture": ("peml",),
}
FEW_SHOT = "Without validation while training: few-shot runs do not look at it."


def adapt(
    metaprompt: Annotated[
        str,
        typer.Argument(
            metavar="METAPROMPT",
            help="embedded (comes with the package), a path, or none (pt, prefix, lora, lora+prefix, peml, full).",
        ),
    ],
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Corpus ids, task YAMLs, synthetic tasks.")],
    out: Annotated[Path, typer.Option(help="The task file; a folder if there are several tasks.")],
    shots: Annotated[
        int | None, typer.Option(min=0, help="Training examples; default: all.", show_default=False)
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="mpt. full: P*, u and v. vectors: u and v only (kilobytes). group: all TASKs share one P*. shared: P* "
            "only. frozen: nothing but positions of the task's own before it. Default: frozen.",
            show_default=False,
        ),
    ] = None,
    own_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="mpt: positions of the task's own before the metaprompt's; pt: more than the metaprompt has. Default: "
            "48 with --mode frozen, else none.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="mpt; pt: a prompt from the vocabulary; spot: from the best source's; prefix: keys and values of "
            "every layer; lora: low-rank updates; lora+prefix: both; peml: both, the prefix from a network; full: all "
            "weights. Default: --config's, else mpt.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="mpt, spot: mean of the sources, best, similar (mean weighted by their losses), or a source task's "
            "name. Default: mean (mpt), best (spot).",
            show_default=False,
        ),
    ] = None,
    draw: Annotated[int | None, typer.Option(help="Which few-shot draw.", show_default=False)] = None,
    train_steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps.", show_default=False)] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Default: the preset's. Where it has none: 0.01 for prefix, 0.001 for lora, lora+prefix and peml, "
            "0.0001 for full.",
            show_default=False,
        ),
    ] = None,
    vector_learning_rate: Annotated[float | None, typer.Option(help="Of u and v.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples a step.", show_default=False)] = None,
    prompt_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="pt, prefix, lora+prefix, peml; MPT and SPoT have their metaprompt's.", show_default=False
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="lora, lora+prefix, peml. Default: 16.", show_default=False)
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(help="lora: a linear layer, as q_proj. Repeatable. Default: all.", show_default=False),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help="lora+prefix, peml. parallel: one loop moves both; sequential: first the prefix. Default: parallel.",
            show_default=False,
        ),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(
            help="peml: the network that produces the prefix, a YAML of `clinprompt search` or by hand. Default: one "
            "tanh bottleneck.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Training records at most.", show_default=False)] = None,
    score: Annotated[int, typer.Option(min=0, help="Validation records to score at the end; 0: none.")] = 64,
    config: o.Config = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice hangs on it.", show_default=False)] = None,
    data_dir: o.DataDir = None,
    backbone: o.BackboneName = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    quantise: o.Quantise = None,
    autocast: o.Autocast = False,
    dry_run: o.DryRun = False,
    flops_per_second: o.FlopRate = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Adapt a metaprompt to new tasks; each becomes a small, self-contained file.

    Several tasks are trained together as rows of one bank; each ends where it would have ended alone (except with
    --mode group, where they share P*). Interrupted, the same command continues.

    \b
    Examples:
      clinprompt adapt embedded my-task.yaml --out my-task.safetensors
      clinprompt adapt embedded my-task.yaml --shots 20 --mode vectors --out my-task.safetensors
      clinprompt adapt runs/open/metaprompt.safetensors phee scinli --data-dir corpora --out tasks/
      clinprompt adapt none my-task.yaml --method lora --rank 8 --out lora.safetensors
    """
    from clinprompt import api
    from clinprompt.commands.multitask import network
    from clinprompt.methods.mpt import MOVES_VECTORS
    from clinprompt.task_lookup import load_task
    from clinprompt.training.banks import ON_METAPROMPT, PREFIXES
    from clinprompt.training.processes import current_processes
    from clinprompt.training.settings import AdaptSettings
    from clinprompt.training.starts import require_start

    api.require_out(out, len(tasks))
    processes = current_processes()
    source = None if metaprompt == NO_METAPROMPT else api.load_artifact_as(metaprompt, "metaprompt")
    model = o.ModelChoice(backbone, dtype, device, quantise, autocast).load(api.backbone_of(source))
    overrides = {
        "method": method,
        "lora.rank": rank,
        "lora.targets": tuple(targets) if targets else None,
        "joint.order": order,
        "joint.architecture": network(architecture),
        "shots": shots,
        "mode": mode,
        "own_length": own_length,
        "start": start,
        "draw": draw,
        "limit": limit,
        "seed": seed,
        "loop.steps": train_steps,
        "loop.batch_size": batch_size,
        "loop.learning_rate": learning_rate,
        "loop.vector_learning_rate": vector_learning_rate,
    }
    settings = api.settings_for(AdaptSettings, model.preset, config, overrides)
    chosen = settings.method or "mpt"
    given: dict[str, Any] = {
        "--mode": mode,
        "--own-length": own_length,
        "--start": start,
        "--vector-learning-rate": vector_learning_rate,
    }
    given |= {"--prompt-length": prompt_length, "--rank": rank, "--targets": targets or None}
    given |= {"--order": order, "--architecture": architecture}
    _check_method(metaprompt, chosen, [name for name, value in given.items() if value is not None])
    if chosen == "mpt" and settings.mode not in MOVES_VECTORS and vector_learning_rate is not None:
        raise TrainingError(f"--vector-learning-rate: mode {settings.mode} trains no vectors. --mode full does.")
    if chosen in PREFIXES and prompt_length is not None:
        settings = settings.model_copy(update={"prefix_length": prompt_length})
    data = [load_task(task, data_dir, splits=("train", "validation")) for task in tasks]
    paths = _paths(out, data)
    used = source if chosen in (*ON_METAPROMPT, "pt") else None  # pt: its prompt's length and position
    require_start(settings, chosen, used)
    length = source.shared.shape[0] if source else prompt_length or model.preset.prompt_length
    if dry_run:
        _plan(model, data, settings, length, used, flops_per_second, as_json)
        return
    began, checkpoint = time.monotonic(), out.with_name(f".{out.name}.checkpoint.safetensors")
    with stage_bars(processes.main and not (as_json or quiet)) as bar:
        result = api.adapt_all(
            used,
            data,
            backbone=model,
            settings=settings,
            prompt_length=length,
            checkpoint=checkpoint,
            processes=processes,
            progress=steps(bar, f"adapt ({chosen})"),
        )
    if not processes.main:
        return
    files = [api.write_task(f, p, metaprompt) for f, p in zip(result.tasks, paths, strict=True)]
    checkpoint.unlink(missing_ok=True)
    remark(f"done in {duration(time.monotonic() - began)}", quiet or as_json)
    for file, path in zip(files, paths, strict=True):
        if "diverged" in file.card.metrics:
            remark(
                f"task {file.task.name}: its loss is not a number after step {file.card.metrics['diverged']}; {path} "
                "holds the values before that. Adapt it again with a lower learning rate or in float32."
            )
    _report(model, files, paths, data, score, as_json, _trained(model, used, settings, length, len(data)))


def _check_method(metaprompt: str, method: str, given: list[str]) -> None:
    """No option is ever ignored: what the method cannot use is refused."""
    if method in ("mpt", "spot") and metaprompt == NO_METAPROMPT:
        raise TrainingError(
            f"`none` instead of a metaprompt needs --method pt, prefix, lora, lora+prefix, peml or full, not {method}."
        )
    for name in given:
        if method not in OWN_OPTIONS[name]:
            owners = ", ".join(OWN_OPTIONS[name])
            raise TrainingError(f"{name} belongs to --method {owners}; {method} does not have it. Leave it out.")
    if method == "pt" and metaprompt != NO_METAPROMPT and "--prompt-length" in given:
        raise TrainingError("--prompt-length: taken from the metaprompt that is named; give `none` to choose it.")


def _paths(out: Path, data: list[TaskData]) -> list[Path]:
    if len(data) == 1:
        return [out]
    names = [d.task.name for d in data]
    if len(set(names)) < len(names):
        raise TrainingError("two of the tasks have one name, and files are named by it. Rename one in its YAML.")
    return [out / f"{name}.safetensors" for name in names]


def _trained(model: Backbone, used: Metaprompt | None, settings: AdaptSettings, length: int, tasks: int) -> int:
    from clinprompt.training.banks import room_for
    from clinprompt.training.costs import trained_numbers

    if settings.shots == 0:
        return 0
    room, rank = room_for(model, settings, used, length), used.u.shape[2] if used else 1
    sources = len(used.names) if used else 0
    return trained_numbers(model, settings, room.method, room.length, rank=rank, tasks=tasks, sources=sources)


def _plan(
    model: Backbone,
    data: list[TaskData],
    settings: AdaptSettings,
    length: int,
    used: Metaprompt | None,
    rate: float | None,
    as_json: bool,
) -> None:
    from clinprompt import api
    from clinprompt.commands.plans import print_plan
    from clinprompt.planning import plan_adapt
    from clinprompt.training.adapt import Plan, plan_examples
    from clinprompt.training.banks import room_for

    room = room_for(model, settings, used, length)
    plans = [Plan(api.source_task(d), settings) for d in data]
    examples = [plan_examples(model, plan, room.length, room.position) for plan in plans]
    rank, sources = (used.u.shape[2], len(used.names)) if used else (1, 0)
    estimate = plan_adapt(model, examples, room.length, settings, room.method, rank, sources)
    print_plan("adapt", estimate, model, examples, length, rate, as_json)


def _report(
    model: Backbone,
    files: list[TaskPrompt],
    paths: list[Path],
    data: list[TaskData],
    score: int,
    as_json: bool,
    trained: int,
) -> None:
    from clinprompt.evaluation.answerer import of_task
    from clinprompt.evaluation.evaluate import evaluate_records

    rows: list[dict[str, Any]] = []
    for file, path, found in zip(files, paths, data, strict=True):
        row: dict[str, Any] = {
            "task": file.task.name,
            "file": str(path),
            "bytes": path.stat().st_size,
            "examples": file.card.data[0].examples,
            "validation_loss": file.card.metrics.get("validation_loss"),
        }
        if score and found.splits["validation"]:
            who = of_task(model, file)
            scored = evaluate_records(who, found.splits["validation"], split="validation", limit=score)
            row |= {"n": scored.n, "metric": scored.headline, "score": scored.summary()["metrics"][scored.headline]}
            row["shown"] = interval(scored.value)
        rows.append(row)
    if as_json:
        shown = [{k: v for k, v in row.items() if k != "shown"} for row in rows]
        print_json({"parameters": trained, "tasks": shown})
        return
    print_table(
        f"Adapted ({trained:,} numbers trained in all)",
        ("task", "examples", "file", "size", "validation loss", "metric", "on validation (95 % interval)", "n"),
        [
            (
                r["task"],
                r["examples"],
                r["file"],
                size(r["bytes"]),
                r["validation_loss"],
                r.get("metric"),
                r.get("shown"),
                r.get("n"),
            )
            for r in rows
        ],
        caption="" if rows[0]["validation_loss"] is not None else FEW_SHOT,
    )
