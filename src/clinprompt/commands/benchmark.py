"""`clinprompt benchmark`: every method on every target of a suite, as cells that are computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import duration, print_json, print_table, quantity, remark, say, size, stage_bars
from clinprompt.errors import TrainingError

if TYPE_CHECKING:
    from clinprompt.experiments.cells import Group
    from clinprompt.experiments.claims import Claims
    from clinprompt.experiments.multitask_protocol import MultitaskProtocol
    from clinprompt.experiments.protocol import Protocol
    from clinprompt.experiments.reproduce import Reproduction
    from clinprompt.experiments.sweep import Executor, Setup, Sweep

PROTOCOL = "Protocol"
WORK = "Work"
EXECUTORS = ("local", "ray")
WITH_REPRODUCE = ("reproduce", "cell", "work", "data_dir", "backbone", "dtype", "device", "quantise", "autocast")
REPORTING = ("as_json", "quiet")


def benchmark(
    ctx: typer.Context,
    suite: Annotated[
        str | None,
        typer.Argument(metavar="[SUITE]", help="A suite with sources and targets; the configuration may name it."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML with the protocol (configs/benchmarks/); options override it.", show_default=False),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="With commas, or all.", rich_help_panel=PROTOCOL, show_default="constant,zero-shot,pt,mpt"),
    ] = None,
    few_shot_methods: Annotated[
        str | None,
        typer.Option(
            help="Of these, the ones run with numbers of shots.", rich_help_panel=PROTOCOL, show_default="all"
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Targets of the suite, with commas.", rich_help_panel=PROTOCOL, show_default="all"),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(
            help="Numbers of training examples, and full.", rich_help_panel=PROTOCOL, show_default="0,1,5,10,20,full"
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draws per number of shots.", rich_help_panel=PROTOCOL, show_default="10")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of `full`.", rich_help_panel=PROTOCOL, show_default="3")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tuning budget: settings tried per method.", rich_help_panel=PROTOCOL, show_default="3"
        ),
    ] = None,
    choose_on: Annotated[
        str | None,
        typer.Option(
            help="Whose validation records judge the trials: target, or sources (once for all targets).",
            rich_help_panel=PROTOCOL,
            show_default="target",
        ),
    ] = None,
    choose_by: Annotated[
        str | None,
        typer.Option(
            help="What of those records judges: loss, or score (of the answers to them).",
            rich_help_panel=PROTOCOL,
            show_default="loss",
        ),
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(min=1, help="Training records of `full`.", rich_help_panel=PROTOCOL, show_default="400"),
    ] = None,
    test: Annotated[
        int | None, typer.Option(min=1, help="Test records per target.", rich_help_panel=PROTOCOL, show_default="all")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps.", rich_help_panel=PROTOCOL, show_default=False)
    ] = None,
    multitask: Annotated[
        bool,
        typer.Option(
            "--multitask",
            help="Compare adapters that learn all targets together, of equal size; see docs/benchmark.md.",
            rich_help_panel=PROTOCOL,
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="The results file (JSON Lines); lines are added.")] = Path("results.jsonl"),
    work: Annotated[
        Path, typer.Option(help="Where cells, metaprompts and checkpoints lie.", rich_help_panel=WORK)
    ] = Path("runs/benchmark"),
    executor: Annotated[str, typer.Option(help="local, or ray (extra: ray).", rich_help_panel=WORK)] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="With ray: processes.", rich_help_panel=WORK, show_default="as CPUs allow")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Per process.", rich_help_panel=WORK, show_default="as PyTorch decides")
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Runs that train together.", rich_help_panel=WORK, show_default="what memory holds"),
    ] = None,
    reproduce: Annotated[
        Path | None,
        typer.Option(help="A results file: run the cell --id of it again.", rich_help_panel=WORK, show_default=False),
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--id", help="Which cell to reproduce.", rich_help_panel=WORK, show_default=False)
    ] = None,
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
    """Compare methods on the targets of a suite: same draws, same tuning budget, chosen on validation data.

    A cell is one method on one target with one draw and seed. A finished cell is never computed again: the same command
    continues, and several processes may work on one --work folder. Metaprompts are learned first, from the suite's
    sources.

    \b
    Examples:
      clinprompt benchmark sample --methods zero-shot,pt,mpt --shots 0,5,full --draws 2 --seeds 1 --dry-run
      clinprompt benchmark sample --methods zero-shot,pt,mpt --shots 0,5,full --draws 2 --seeds 1 --out sample.jsonl
      clinprompt benchmark --config configs/benchmarks/open-clinical-embedded.yaml --data-dir corpora
      clinprompt benchmark --multitask --config configs/benchmarks/open-clinical-multitask.yaml --data-dir corpora
      clinprompt benchmark --reproduce results.jsonl --id 0123456789abcdef --data-dir corpora
    """
    from clinprompt.experiments.multitask_protocol import load_multitask_protocol
    from clinprompt.experiments.protocol import load_protocol, shots_of
    from clinprompt.experiments.sweep import Setup

    _check(executor, workers, reproduce, cell, suite, config)
    if reproduce is not None:
        _check_reproduce(ctx)
    model = o.ModelChoice(backbone, dtype, device, quantise, autocast)
    if reproduce is not None and cell is not None:
        _reproduce(reproduce, cell, model, data_dir, work, as_json, quiet)
        return
    limits = {key: value for key, value in {"train": train, "test": test}.items() if value is not None}
    overrides: dict[str, Any] = {"suite": suite, "seeds": seeds, "trials": trials, "limits": limits, "steps": steps}
    protocol: Protocol | MultitaskProtocol
    if multitask:
        own = {"--shots": shots, "--draws": draws, "--few-shot-methods": few_shot_methods, "--choose-on": choose_on}
        own["--choose-by"] = choose_by
        _check_multitask(own)
        overrides |= {"methods": _multitask_methods(methods), "tasks": _names(targets)}
        protocol = load_multitask_protocol(config, overrides)
    else:
        overrides |= {"methods": _methods(methods), "targets": _names(targets), "draws": draws}
        overrides |= {"choose_on": choose_on, "choose_by": choose_by}
        overrides |= {"few_shot_methods": _names(few_shot_methods), "shots": shots_of(shots) if shots else None}
        protocol = load_protocol(config, overrides)
    setup = Setup(
        protocol=protocol.model_dump(mode="json"),
        backbone=model.arguments("embedded"),
        work=work,
        rows=rows or 0,
        data_dir=data_dir,
        threads=threads or 0,
        multitask=multitask,
    )
    _run(setup, out, executor, workers, dry_run, flops_per_second, as_json, quiet)


def _run(
    setup: Setup,
    out: Path,
    executor: str,
    workers: int | None,
    dry_run: bool,
    rate: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from dataclasses import replace

    from clinprompt.experiments.claims import Claims
    from clinprompt.experiments.store import ResultsFile
    from clinprompt.experiments.sweep import Sweep, rows_that_fit

    bench = setup.bench()
    setup = replace(setup, rows=setup.rows or rows_that_fit(bench))
    sweep = Sweep(bench, ResultsFile(out), setup.rows)
    warning = _growing(sweep.groups, setup.protocol["tuning_runs"])
    remark(warning, quiet or not warning)
    if dry_run:
        _plan(sweep, rate, as_json)
        return
    claims = Claims(bench.store.claims, setup.lease)
    with stage_bars(not (as_json or quiet)) as bar:
        if bar is not None:
            sweep.told = lambda done, total: bar("cells", done, total, math.nan)
        sweep.run(_executor(executor, workers, setup, sweep, claims, bar))
    if as_json:
        print_json({"out": str(out), "cells": sweep.total, "work": str(setup.work)})
        return
    say(f"{sweep.total:,} cells in {out}")


def _growing(groups: Sequence[Group], tuning_runs: int) -> str:
    """What to know before more draws or seeds are added to this sweep; empty if its cells will stay."""
    from clinprompt.experiments.protocol import FULL

    counts: dict[str, int] = {}
    for group in groups:
        if group.pool:
            what = "seeds" if group.shots == FULL else "draws"
            count = len({cell.seed if group.shots == FULL else cell.draw for cell in group.cells})
            counts[what] = min(count, counts.get(what, count))
    few = {what: count for what, count in counts.items() if count < tuning_runs}
    if not few:
        return ""
    return (
        f"{' and '.join(f'{what}: {count}' for what, count in few.items())}, fewer than `tuning_runs` ({tuning_runs}), "
        "so all of them judge the trials. Should more be added later, those would judge too, and all cells be "
        f"computed again: set `tuning_runs: {min(few.values())}` in the configuration now to keep the cells then."
    )


def _executor(name: str, workers: int | None, setup: Setup, sweep: Sweep, claims: Claims, bar: Any) -> Executor:
    from clinprompt.experiments.sweep import Local

    if name == "ray":
        from clinprompt.experiments.on_ray import OnRay

        return OnRay(setup, workers, sweep.refresh)
    return Local(sweep.bench, claims, setup.rows, bar)


def _check(
    executor: str, workers: int | None, reproduce: Path | None, cell: str | None, suite: str | None, config: Path | None
) -> None:
    if executor not in EXECUTORS:
        raise TrainingError(f"--executor {executor}: known are {', '.join(EXECUTORS)}.")
    if workers is not None and executor == "local":
        raise TrainingError("--workers belongs to --executor ray; local computes in this process.")
    if (reproduce is None) != (cell is None):
        raise TrainingError("--reproduce FILE and --id ID go together: which file, and which of its cells.")
    if reproduce is not None and (suite or config):
        raise TrainingError("--reproduce reads the protocol from the cell's line; leave SUITE and --config out.")
    if reproduce is None and suite is None and config is None:
        raise TrainingError("name a SUITE, or a --config that names one.")


def _check_reproduce(ctx: typer.Context) -> None:
    """No option is ever ignored: what the cell's line decides, and what is about a sweep, is refused."""
    given = [parameter for parameter in ctx.command.params if _was_given(ctx, parameter.name or "")]
    wrong = [parameter.opts[0] for parameter in given if parameter.name not in (*WITH_REPRODUCE, *REPORTING)]
    if wrong:
        raise TrainingError(
            f"--reproduce runs one cell as its line says: leave {', '.join(wrong)} out. Beside it go --id, --work, "
            "--data-dir, where to compute (--backbone, --device, --dtype, --autocast, --quantise), --json and --quiet."
        )


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text is not None else None


def _methods(text: str | None) -> tuple[str, ...] | None:
    from clinprompt.methods.registry import METHODS

    return tuple(METHODS) if text == "all" else _names(text)


def _multitask_methods(text: str | None) -> tuple[str, ...] | None:
    from clinprompt.methods.registry import MULTITASK

    return tuple(MULTITASK) if text == "all" else _names(text)


def _check_multitask(given: dict[str, Any]) -> None:
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise TrainingError(f"--multitask trains on all records of the limits: leave out {', '.join(wrong)}.")


# --- --dry-run and --reproduce ----------------------------------------------------------------------------------------


def _plan(sweep: Sweep, rate: float | None, as_json: bool) -> None:
    from clinprompt.experiments.estimate import estimate

    found = estimate(sweep, rate)
    if as_json:
        print_json({"verb": "benchmark", "dry_run": True, "rows": sweep.rows, **found.summary()})
        return
    print_table(
        "Plan of `benchmark` (nothing was trained)",
        ("method", "cells", "trainings", "tokens", "FLOPs", "training", "answering"),
        [
            (
                m.method,
                m.cells,
                m.rows,
                quantity(m.tokens),
                quantity(m.flops),
                duration(m.train_seconds),
                duration(m.predict_seconds),
            )
            for m in found.methods
        ],
    )
    say(f"Cells: {found.cells:,}; left: {found.left:,}, in {found.units:,} units of at most {sweep.rows} rows")
    say(f"Metaprompts to learn first: {found.metaprompts} ({quantity(found.metaprompt_flops)}FLOPs)")
    how = "measured just now" if found.rate_measured else "as given"
    say(f"Time: {duration(found.seconds)} in one process, at {quantity(found.rate)}FLOP/s in training ({how})")
    say("Answering was measured on a few questions per target; prompts that do not stop take longer")
    say(f"Memory: about {size(found.memory)} (within a factor of two)")


def _reproduce(
    path: Path, identifier: str, model: o.ModelChoice, data_dir: Path | None, work: Path, as_json: bool, quiet: bool
) -> None:
    from clinprompt.experiments.reproduce import recorded_cell, run_again

    recorded = recorded_cell(path, identifier)
    model = model.in_numerics(recorded.settings.get("numerics", {}))
    with stage_bars(not (as_json or quiet)) as bar:
        found = run_again(recorded, model.load(recorded.backbone), work, data_dir, bar)
    if as_json:
        print_json(
            {
                "id": recorded.id,
                "exact": found.exact,
                "differences": list(found.differences),
                "remarks": list(found.remarks),
                "recorded": recorded.metrics,
                "found": found.found.metrics,
            }
        )
    else:
        _show(found)
    if not found.exact:
        raise typer.Exit(2)


def _show(found: Reproduction) -> None:
    recorded = found.recorded
    where = (
        f"{recorded.method} on {recorded.target}, shots {recorded.shots}, draw {recorded.draw}, seed {recorded.seed}"
    )
    print_table(
        where,
        ("metric", "recorded", "found"),
        [(name, value[0], found.found.metrics.get(name, (None,))[0]) for name, value in recorded.metrics.items()],
    )
    say("Reproduced exactly." if found.exact else f"Differs in: {', '.join(found.differences)}")
    for text in found.remarks:
        remark(text)
