"""`clinprompt evaluate`: scores with intervals on a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import counter, interval, print_json, print_table, say, stage_bars
from clinprompt.errors import ArtifactError

if TYPE_CHECKING:
    from clinprompt.evaluation.evaluate import Evaluation


def evaluate(
    file: Annotated[
        str,
        typer.Argument(
            help="A task file, a metaprompt or multi-task adapter (with --source), embedded, zero-shot, or constant."
        ),
    ],
    task: Annotated[
        str | None,
        typer.Argument(help="Whose data to score on: corpus id or task YAML. Default: the file's own task, by name."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score a fixed, hashed sample of so many records.", show_default=False)
    ] = None,
    source: o.Source = None,
    in_context: Annotated[
        int | None,
        typer.Option(
            "--in-context",
            min=1,
            metavar="K",
            help="With zero-shot: K solved training records stand before every question, as many as fit.",
            show_default=False,
        ),
    ] = None,
    draw: Annotated[
        int | None,
        typer.Option(min=0, help="With --in-context: which draw, as in adapt. Default: 0.", show_default=False),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Also write the scores into the file's card.")] = False,
    metaprompt: o.Metaprompts = None,
    seed: o.Seed = 0,
    data_dir: o.DataDir = None,
    backbone: o.BackboneName = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    quantise: o.Quantise = None,
    autocast: o.Autocast = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Score a task file on a split, with 95 % intervals.

    Intervals are bootstrapped over records, by --seed; scores are in 0 to 100. Mentions that the model names but the
    text does not hold count as errors and are shown as ungrounded.
    constant gives every question one answer, the best one on the training records, and asks no model: a task file that
    is not ahead of it has learned which answers are usual, not to read.
    --json prints {"task", "n", "metrics": {name: {"value", "low", "high"}}, …}.

    \b
    Examples:
      clinprompt evaluate my-task.safetensors my-task.yaml
      clinprompt evaluate tasks/phee.safetensors --data-dir corpora --limit 1000 --json
      clinprompt evaluate runs/open/metaprompt.safetensors --source bc5cdr --data-dir corpora
      clinprompt evaluate zero-shot my-task.yaml --in-context 5
      clinprompt evaluate constant my-task.yaml
    """
    from clinprompt import api
    from clinprompt.task_lookup import load_task

    if write and file in (*api.UNTRAINED, api.EMBEDDED):
        raise ArtifactError(f"--write: {file} is no file of yours whose card could be written.")
    if in_context is None and draw is not None:
        raise ArtifactError("--draw chooses the examples of --in-context; give both or none.")
    if in_context is not None and file != api.ZERO_SHOT:
        raise ArtifactError("--in-context: examples stand before the bare instruction; FILE must be zero-shot.")
    artifact = None if file in api.UNTRAINED else api.load_artifact(file, metaprompt or [])
    api.require_several(artifact, source)
    splits = tuple({split, "train"}) if in_context or file == api.CONSTANT else (split,)
    data = load_task(task or api.own_task(artifact, source), data_dir, splits=splits)
    model = o.ModelChoice(backbone, dtype, device, quantise, autocast).load(api.backbone_of(artifact))
    from clinprompt.evaluation.answerer import in_context as with_examples
    from clinprompt.evaluation.answerer import one_answer
    from clinprompt.evaluation.evaluate import Answers, evaluate_records

    who: Answers
    if file == api.CONSTANT:
        who = one_answer(model, data.task, data.splits["train"])
    elif in_context is None:
        who = api.answerer(model, artifact, source=source, task=data.task)
    else:
        who = with_examples(model, data.task, data.splits["train"], in_context, draw=draw or 0, seed=seed)
    with stage_bars(not (as_json or quiet)) as bar:
        progress = counter(bar, data.task.name)
        found = evaluate_records(who, data.splits[split], split=split, limit=limit, seed=seed, progress=progress)
    if write and artifact is not None:
        api.with_metrics(artifact, api.artifact_path(file), found, source)
    if as_json:
        print_json(found.summary())
    else:
        _print(found)


def _print(found: Evaluation) -> None:
    sampled = f"a fixed sample of {found.n:,} of {found.available:,}" if found.n < found.available else f"{found.n:,}"
    print_table(
        f"{found.task.name} ({found.task.type}), {found.split}: {sampled} records",
        ("metric", "score [95 % interval]"),
        [(name + (" *" if name == found.headline else ""), interval(score)) for name, score in found.scores.items()],
        caption="* headline",
    )
    if found.errors is not None:
        e = found.errors
        say(
            f"Entities: {e.correct} correct, {e.boundary} with a wrong border, {e.type} with a wrong type, {e.missed} "
            f"missed, {e.spurious} spurious, {e.ungrounded} not in the text"
        )
    elif found.ungrounded:
        say(f"{found.ungrounded} generated mentions are not in the text (each counts as an error)")
    if found.in_context:
        shown = found.in_context
        say(
            f"In context: {shown['given']} solved examples were given, of which {shown['fitted']} fitted before a "
            f"question on average, at least {shown['least']}"
        )
    if found.malformed:
        say(f"{found.malformed} parts of answers follow no format")
    if found.omitted:
        say(f"{found.omitted} records hold a unit too long for the context, of which a part was not shown")
