"""`clinprompt learn`: many source tasks → one metaprompt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import duration, interval, print_json, print_table, remark, say, size, stage_bars
from clinprompt.errors import TrainingError

if TYPE_CHECKING:
    from clinprompt.backbone.model import Backbone
    from clinprompt.training.learn import Learned, SourceTask
    from clinprompt.training.settings import LearnSettings

EXTENSION = "Extending a metaprompt"
NETWORKS = ("peml", "mpt-generated")


def learn(
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE",
            help="sample, open-clinical, open-clinical-permissive, or a suite YAML. With --extend: TASK...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the result is a .safetensors file in it.")],
    teacher_steps: Annotated[int | None, typer.Option(help="Steps of the teachers.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the metaprompt.", show_default=False)] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of teachers and P*; default: the preset's.", show_default=False)
    ] = None,
    prompt_length: Annotated[int | None, typer.Option(help="Default: the preset's.", show_default=False)] = None,
    rank: Annotated[
        int | None, typer.Option(help="Of the task vectors, or of the adapter.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Training records per source.", show_default=False)] = None,
    score: Annotated[int, typer.Option(help="Also score so many validation records of each source.")] = 0,
    method: Annotated[
        str | None,
        typer.Option(
            help="Instead of a metaprompt one adapter for all tasks: lora, prefix, lora+prefix, peml, mtl-lora, "
            "multilora, c-poly, moelora, mixlora, loramoe. Its settings: `adapter` in --config. Or a metaprompt "
            "learned in another way: mpt-generated, mpt-no-distillation, … (docs/methods.md).",
            show_default=False,
        ),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(
            help="A network, a YAML of `clinprompt search` or by hand: of --method peml for its prefix, of "
            "mpt-generated for P*.",
            show_default=False,
        ),
    ] = None,
    extend: Annotated[
        str | None,
        typer.Option(
            metavar="METAPROMPT",
            help="Add the TASKs to this metaprompt instead of learning one from a suite.",
            rich_help_panel=EXTENSION,
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="freeze: P* and the old tasks stay bit-equal, new u and v are learned. replay: all are trained, with "
            "the old tasks' data. Default: freeze.",
            rich_help_panel=EXTENSION,
            show_default=False,
        ),
    ] = None,
    old: Annotated[
        list[str] | None,
        typer.Option(
            help="Task YAML or suite with data of old tasks (those of the catalog are found by name). Repeatable.",
            rich_help_panel=EXTENSION,
        ),
    ] = None,
    config: o.Config = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice hangs on it.", show_default=False)] = None,
    data_dir: o.DataDir = None,
    backbone: o.BackboneName = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    quantise: o.Quantise = None,
    autocast: o.Autocast = False,
    shard: Annotated[
        bool,
        typer.Option("--shard", help="Split the frozen layers over the processes (FSDP).", rich_help_panel=o.MODEL),
    ] = False,
    dry_run: o.DryRun = False,
    flops_per_second: o.FlopRate = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Learn a metaprompt: a teacher per source task, then all of them distilled into one shared prompt (MPT).

    Interrupt it whenever you like: the same command continues, and on CPU ends bit-identical. Several processes:
    torchrun --nproc_per_node 2 -m clinprompt learn …

    \b
    Examples:
      clinprompt learn sample --out runs/sample
      clinprompt learn open-clinical --data-dir corpora --out runs/open --dry-run
      clinprompt learn my-suite.yaml --backbone llama-3.1-8b --device cuda --out runs/mine
      clinprompt learn open-clinical --data-dir corpora --method mtl-lora --out runs/mtl-lora
      clinprompt learn open-clinical --data-dir corpora --method mpt-generated --out runs/generated
      clinprompt learn open-clinical --data-dir corpora --method spot --out runs/source-prompts
      clinprompt learn --extend runs/mine/metaprompt.safetensors new-task.yaml --old my-suite.yaml --out runs/more
    """
    from clinprompt import api
    from clinprompt.training.processes import current_processes
    from clinprompt.training.settings import LearnSettings

    choice = o.ModelChoice(backbone, dtype, "cpu" if shard else device, quantise, autocast)
    if shard and (score or extend is not None or quantise or dry_run):
        raise TrainingError("--shard splits whole weights for `learn SUITE`: leave out --extend, --score, --quantise, "
                            "--dry-run. Score the result with `clinprompt evaluate`.")  # fmt: skip
    overrides: dict[str, Any] = {
        "teacher.steps": teacher_steps,
        "source.steps": steps,
        "teacher.learning_rate": learning_rate,
        "source.learning_rate": learning_rate,
        "prompt_length": prompt_length,
        "rank": rank,
        "limit": limit,
        "seed": seed,
    }
    from clinprompt.commands import multitask
    from clinprompt.methods.registry import METHODS

    if architecture is not None and method not in NETWORKS:
        raise TrainingError(f"--architecture belongs to --method {' or '.join(NETWORKS)}; leave it out.")
    if method in METHODS and METHODS[method].learn:  # a metaprompt, learned in another way
        _check_variant(method, extend, steps, rank)
        overrides |= dict(METHODS[method].learn)
        if architecture is not None:
            overrides["architecture"] = multitask.network(architecture)
    elif method is not None:
        mpt = {"--teacher-steps": teacher_steps, "--prompt-length": prompt_length, "--extend": extend, "--shard": shard}
        multitask.check_options(method, mpt | {"--dry-run": dry_run})
        suite = _only_suite(tasks, keep, old)
        changes: dict[str, Any] = {"loop.steps": steps, "loop.learning_rate": learning_rate, "adapter.rank": rank}
        changes |= {"adapter.architecture": multitask.network(architecture)}
        changes |= {"limit": limit, "seed": seed}
        ask = multitask.Request(suite, method, out, data_dir, config, changes, score)
        multitask.learn_together(ask, choice, as_json, quiet)
        return
    if extend is not None:
        _check_extension(prompt_length, rank)
        from clinprompt.commands.extend import Request
        from clinprompt.commands.extend import extend as run

        asked = Request(
            extend,
            tasks,
            out,
            old or (),
            data_dir,
            config,
            overrides | {"keep": keep},
            score,
            dry_run,
            flops_per_second,
        )
        run(asked, choice, as_json, quiet)
        return
    suite = _only_suite(tasks, keep, old)
    processes = current_processes()
    model = choice.load(api.EMBEDDED)
    settings = api.settings_for(LearnSettings, model.preset, config, overrides)
    sources = api.source_tasks(suite, data_dir)
    if dry_run:
        _plan(model, sources, settings, flops_per_second, as_json)
        return
    if shard:
        from clinprompt.training.sharding import shard as split

        processes = split(model, processes)
    began = time.monotonic()
    with stage_bars(processes.main and not (as_json or quiet)) as bar:
        from clinprompt.training.learn import learn as train

        learned = train(model, sources, settings, out, processes=processes, progress=bar)
    if processes.main:
        remark(f"done in {duration(time.monotonic() - began)}", quiet or as_json)
    if processes.main or processes.sharded:  # a split backbone judges the prompts in all processes together
        _report(model, learned, sources, out, score, as_json, processes.main)


def _check_variant(method: str, extend: str | None, steps: int | None, rank: int | None) -> None:
    if extend is not None:
        raise TrainingError(f"--method {method} says how a metaprompt is learned from a suite; leave out --extend.")
    if method == "spot" and (steps is not None or rank is not None):
        raise TrainingError(
            "--method spot ends with the teachers: leave out --steps (--teacher-steps is theirs), --rank."
        )


def _check_extension(prompt_length: int | None, rank: int | None) -> None:
    if prompt_length is not None or rank is not None:
        raise TrainingError("--prompt-length and --rank: with --extend they are the metaprompt's; leave them out.")


def _only_suite(names: list[str], keep: str | None, old: list[str] | None) -> str:
    if keep is not None or old:
        raise TrainingError("--keep and --old belong to --extend METAPROMPT.")
    if len(names) > 1:
        raise TrainingError(
            "one suite is learned from. Several tasks: list them as `sources` in a suite YAML, or add them to a "
            "metaprompt with --extend METAPROMPT."
        )
    return names[0]


def _plan(model: Backbone, sources: list[SourceTask], settings: LearnSettings, rate: float | None, json: bool) -> None:
    from clinprompt.commands.plans import print_plan
    from clinprompt.planning import plan_learn
    from clinprompt.training.learn import prompt_shape, source_examples

    length, position = prompt_shape(model, settings)
    examples = [source_examples(model, source, settings, length, position) for source in sources]
    print_plan("learn", plan_learn(model, examples, length, settings), model, examples, length, rate, json)


def _report(
    model: Backbone,
    learned: Learned,
    sources: list[SourceTask],
    out: Path,
    score: int,
    as_json: bool,
    prints: bool,
) -> None:
    """Validation losses of teacher and metaprompt per source, and scores if they were asked for."""
    from clinprompt.evaluation.answerer import of_source
    from clinprompt.evaluation.evaluate import evaluate_records
    from clinprompt.training.loop import prompt_loss

    path, rows = out / "metaprompt.safetensors", []
    for row, (source, examples) in enumerate(zip(sources, learned.examples, strict=True)):
        name = source.task.name
        found: dict[str, Any] = {
            "task": name,
            "type": source.task.type,
            "examples": len(examples.train),
            "skipped": examples.skipped,
            "teacher_loss": float(learned.teacher_fit.validation[row]),
            "validation_loss": prompt_loss(model, examples.validation, learned.metaprompt.prompt(name)),
        }
        if score and source.validation:
            who = of_source(model, learned.metaprompt, name)
            scored = evaluate_records(who, source.validation, split="validation", limit=score)
            found |= {"metric": scored.headline, "score": interval(scored.value), "n": scored.n}
        rows.append(found)
    if not prints:
        return
    trained = sum(t.numel() for t in (learned.metaprompt.shared, learned.metaprompt.u, learned.metaprompt.v))
    if as_json:
        facts = {"file": str(path), "bytes": path.stat().st_size, "parameters": trained, "sources": rows}
        print_json(facts | {"digest": learned.metaprompt.card.digest})
        return
    columns = ["task", "type", "examples", "teacher_loss", "validation_loss"]
    columns += ["metric", "score"] if score else []
    print_table(
        "Source tasks (loss per answer token on validation)", columns, [[r.get(c) for c in columns] for r in rows]
    )
    for found in rows:
        if found["skipped"]:
            say(f"{found['task']}: {found['skipped']} examples longer than the context were left out")
    how = " --method spot" if learned.metaprompt.card.method == "spot" else ""
    say(f"{path}: {trained:,} numbers, {size(path.stat().st_size)}. Next: clinprompt adapt {path} TASK{how} --out FILE")
