"""`clinprompt search`: the network that produces a prefix, searched on the source tasks of a suite."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import duration, print_json, print_table, quantity, remark, say, stage_bars, steps
from clinprompt.errors import TrainingError

if TYPE_CHECKING:
    from clinprompt.adapters.shared import SharedBank
    from clinprompt.backbone.model import Backbone
    from clinprompt.training.learn import SourceTask
    from clinprompt.training.multitask import MultitaskLearned
    from clinprompt.training.search import Searched, SearchSettings

THEN = ("retrain", "continue")
TRAINED = "adapter"  # folder of what --then trains


def search(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE", help="sample, open-clinical, open-clinical-permissive, or a suite YAML: its sources."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the search; the result is architecture.yaml in it.")],
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Points of the outer search; the first four are random. Default: 8.", show_default=False
        ),
    ] = None,
    train_steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of each trial. Default: 150.", show_default=False)
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="How candidates mix: softmax, gumbel, straight-through. Default: softmax.", show_default=False
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of LoRA and the network. Default: 0.001.", show_default=False)
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of the LoRA beside it.", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Training records per task.", show_default=False)] = None,
    then: Annotated[
        str | None,
        typer.Option(
            help="Also train peml on the suite with what was found. retrain: from the start; continue: with the "
            "weights it has from the search.",
            show_default=False,
        ),
    ] = None,
    then_steps: Annotated[int | None, typer.Option(min=1, help="Steps of --then.", show_default=False)] = None,
    config: o.Config = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice hangs on it.", show_default=False)] = None,
    data_dir: o.DataDir = None,
    backbone: o.BackboneName = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    quantise: o.Quantise = None,
    autocast: o.Autocast = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Search the network that produces a prefix (PrefixNAS of PEML), for `learn` and `adapt --method peml`.

    Each trial is a relaxed search at one depth, width and prefix length. The first four points are random, from the
    fifth on Optuna's TPE chooses: fewer than five trials are a random search. Needs the extra
    `search`. Fields of --config: docs/peml.md. Interrupted, the same command continues.

    \b
    Examples:
      clinprompt search sample --trials 4 --steps 50 --out runs/search
      clinprompt search open-clinical --data-dir corpora --then continue --out runs/search
      clinprompt adapt none my-task.yaml --method peml --architecture runs/search/architecture.yaml --out my.safetensors
    """
    from clinprompt import api
    from clinprompt.training import search as searching
    from clinprompt.training.settings import load_settings

    if then not in (None, *THEN):
        raise TrainingError(f"--then {then}: {' or '.join(THEN)}.")
    if then_steps is not None and then is None:
        raise TrainingError("--then-steps belongs to --then retrain or --then continue.")
    overrides: dict[str, Any] = {"trials": trials, "limit": limit, "seed": seed, "relax.loop.steps": train_steps}
    overrides |= {"relax.rule": rule, "relax.loop.learning_rate": learning_rate, "relax.lora.rank": rank}
    settings = load_settings(searching.SearchSettings, config, overrides)
    if then is not None:
        _check_trained(_trained_folder(out, then), out, settings)
    model = o.ModelChoice(backbone, dtype, device, quantise, autocast).load(api.EMBEDDED)
    sources = api.source_tasks(suite, data_dir)
    began = time.monotonic()
    with stage_bars(not (as_json or quiet)) as bar:
        found = searching.search(model, sources, settings, out, progress=bar)
        trained = None
        if then is not None:
            start = searching.best_bank(model, sources, settings, out, found) if then == "continue" else None
            into = _trained_folder(out, then)
            trained = _train(model, sources, settings, found, into, start, then_steps, steps(bar, "peml"))
    remark(f"done in {duration(time.monotonic() - began)}", quiet or as_json)
    _report(found, settings, out, trained, as_json)


def _trained_folder(out: Path, then: str) -> Path:
    return out / f"{TRAINED}-{'continued' if then == 'continue' else 'retrained'}"


def _check_trained(trained: Path, out: Path, settings: SearchSettings) -> None:
    """More trials may find a better network; what was trained with the former one is told before they are paid for."""
    from clinprompt.training.search import concluded_trials

    known = concluded_trials(out)
    if trained.exists() and known < settings.trials:
        raise TrainingError(
            f"{trained}: was trained with the best of {known} trials; the best of {settings.trials} may be another. "
            "Move or delete that folder, or search without --then first and look whether the best has changed."
        )


def _train(
    model: Backbone,
    sources: list[SourceTask],
    settings: SearchSettings,
    found: Searched,
    folder: Path,
    start: SharedBank | None,
    longest: int | None,
    progress: Any,
) -> MultitaskLearned:
    """peml on all tasks with the found network; `start`: begun with the weights of the search."""
    from clinprompt import api
    from clinprompt.training.multitask import learn_multitask

    searched, lora = settings.relax, settings.relax.lora
    adapter: dict[str, Any] = {"architecture": found.architecture.bare().model_dump(mode="json")}
    adapter |= {"rank": lora.rank, "alpha": lora.alpha, "targets": lora.targets}
    adapter |= {"prefix_ratio": searched.prefix_ratio, "initial": searched.initial}
    overrides = {f"adapter.{name}": value for name, value in adapter.items()}
    for name in ("limit", "validation_records", "target_reserve", "window", "seed"):
        overrides[name] = getattr(settings, name)
    overrides |= {"stochastic": searched.stochastic, "most_tasks": searched.most_tasks}
    overrides |= {"loop.steps": longest, "loop.learning_rate": searched.loop.learning_rate}
    chosen = api.multitask_settings("peml", None, overrides)
    return learn_multitask(model, sources, chosen, folder, bank=start, progress=progress)


def _report(
    found: Searched, settings: SearchSettings, out: Path, trained: MultitaskLearned | None, as_json: bool
) -> None:
    from clinprompt.training.search import ARCHITECTURE, DIAGRAM, RANDOM_TRIALS

    chosen = found.architecture
    if as_json:
        facts: dict[str, Any] = {
            "file": str(out / ARCHITECTURE),
            "diagram": str(out / DIAGRAM),
            "architecture": chosen.model_dump(mode="json", exclude={"search"}),
            "best": found.best + 1,
            "seconds": found.seconds,
            "tokens": found.tokens,
            "trials": found.trials,
        }
        if trained is not None:
            names, losses = trained.adapter.names, trained.fit.validation.tolist()
            facts["trained"] = {
                "digest": trained.adapter.card.digest,
                "validation_loss": dict(zip(names, losses, strict=True)),
            }
        print_json(facts)
        return
    columns = ["trial", "operations", "length", "width", "hidden", "relaxed", "discrete", "gap", "entropy", "s"]
    rows = [_row(trial) for trial in found.trials]
    print_table("Trials (validation loss per answer token; entropy: 1 undecided, 0 decided)", columns, rows)
    say(f"{out / ARCHITECTURE}: {' → '.join(chosen.operations)}, from trial {found.best + 1}; {DIAGRAM} beside it")
    say(f"{len(found.trials)} trials cost {duration(found.seconds)} and {quantity(found.tokens)} tokens.")
    if len(found.trials) <= RANDOM_TRIALS:
        say(f"All points were random: TPE chooses from trial {RANDOM_TRIALS + 1} on.")
    if trained is not None:
        judged = trained.fit.validation
        held = judged[~judged.isnan()]
        say(f"peml on {len(trained.adapter.names)} tasks: mean validation loss {float(held.mean()):.3f}")


def _row(trial: dict[str, Any]) -> list[Any]:
    cell, entropies = trial["architecture"], trial["entropies"]
    sizes = [cell["length"], cell["width"], cell["hidden"]]
    losses = [trial["relaxed_loss"], trial["discrete_loss"], trial["gap"]]
    mean = None if None in entropies else sum(entropies) / len(entropies)
    return [trial["trial"], " → ".join(cell["operations"]), *sizes, *losses, mean, round(trial["seconds"])]
