"""`clinprompt drift`: does a task file still do its work, year by year or site by site?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import counter, interval, print_json, print_table, remark, say, stage_bars

if TYPE_CHECKING:
    from clinprompt.upkeep.drift import Drift

DRIFTED = 3
"""Exit code of --fail-on-drift: 2 means that the command could not be carried out."""


def drift(
    file: Annotated[
        str,
        typer.Argument(help="A task file, a metaprompt or multi-task adapter (with --task), embedded, or zero-shot."),
    ],
    task: Annotated[
        str | None,
        typer.Argument(help="Whose data to score on: corpus id or task YAML. Default: the file's own task, by name."),
    ] = None,
    by: Annotated[
        str, typer.Option(help="year, quarter or month of a date; or a field: site, group, any key of `meta`.")
    ] = "year",
    date: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Field with the date; default: date.", show_default=False)
    ] = None,
    date_format: Annotated[
        str | None, typer.Option(help="As %d.%m.%Y; default: ISO, 2024-03-31.", show_default=False)
    ] = None,
    fields: Annotated[
        Path | None,
        typer.Option(help="Table (CSV, TSV, XLSX, JSON Lines) with a column id and the field.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score a fixed, hashed sample of so many records.", show_default=False)
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="Slices with fewer records are scored, not tested.")] = 10,
    permutations: Annotated[int, typer.Option(min=100, help="Of the tests.")] = 2000,
    alpha: Annotated[float, typer.Option(min=0.0, max=1.0, help="Level of the tests.")] = 0.05,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit with 3 if a change was found (for cron).")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the slices' scores as SVG.", show_default=False)] = None,
    source: o.Source = None,
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
    """Score slices of a dated or labelled corpus, and test whether they differ.

    Permutation tests (patients, that is records of one `group`, stay together): any difference between slices; a trend
    over ordered ones; each slice against all others, Holm-corrected. Drift is a difference or a trend below --alpha.

    \b
    Examples:
      clinprompt drift my-task.safetensors notes-2019-2024.yaml --by year
      clinprompt drift my-task.safetensors notes.yaml --by quarter --date admitted --fail-on-drift --json
      clinprompt drift my-task.safetensors notes.yaml --by site --fields sites.csv --plot sites.svg
    """
    from clinprompt import api
    from clinprompt.task_lookup import load_task
    from clinprompt.training.examples import sample_records
    from clinprompt.upkeep.drift import drift as compare
    from clinprompt.upkeep.slices import UNITS, slice_records, with_fields

    artifact = None if file == api.ZERO_SHOT else api.load_artifact(file, metaprompt or [])
    data = load_task(task or api.own_task(artifact, source), data_dir, splits=(split,))
    records = data.splits[split]
    if fields is not None:
        records = with_fields(records, fields, [date or "date"] if by in UNITS else [by])
    slicing = slice_records(records, by, date_field=date, date_format=date_format)
    if limit is not None:
        records = sample_records(data.task.name, records, limit)
        slicing = slice_records(records, by, date_field=date, date_format=date_format)
    model = o.ModelChoice(backbone, dtype, device, quantise, autocast).load(api.backbone_of(artifact))
    who = api.answerer(model, artifact, source=source, task=data.task)
    with stage_bars(not (as_json or quiet)) as bar:
        predictions = who.answers(records, counter(bar, data.task.name))
    found = compare(
        data.task,
        records,
        predictions,
        slicing,
        permutations=permutations,
        least_records=least,
        alpha=alpha,
        seed=seed,
    )
    if plot is not None:
        from clinprompt.upkeep.plot import drift_svg

        plot.write_text(drift_svg(found, f"{data.task.name} by {by}"), encoding="utf-8")
        remark(f"written: {plot}", quiet or as_json)
    if as_json:
        available = len(data.splits[split])
        print_json({"task": data.task.name, "split": split, "by": by, "available": available, **found.summary()})
    else:
        _print(found, data.task.name, by, least)
    if fail_on_drift and found.drifted:
        raise typer.Exit(DRIFTED)


def _print(found: Drift, task: str, by: str, least: int) -> None:
    rows: list[tuple[Any, ...]] = [
        (one.name, one.n, interval(one.score), one.difference, one.p, one.adjusted_p) for one in found.slices
    ]
    print_table(
        f"{task} by {by}: {found.metric}, {found.n:,} records",
        ("slice", "n", "score [95 % interval]", "to the others", "p", "p (Holm)"),
        [*rows, ("all", found.n, interval(found.score), None, None, None)],
    )
    if found.missing:
        say(f"{found.missing:,} records lack the field and were left out")
    if found.difference_p is None:
        say(f"Nothing was tested: fewer than two slices have {least} records.")
        return
    say(f"Any difference between slices: p = {found.difference_p:.4f} ({found.permutations:,} permutations)")
    if found.trend is not None:
        say(f"Trend: {found.trend.slope:+.2f} points per step of {by}, p = {found.trend.p:.4f}")
    verdict = "a change" if found.drifted else "no change"
    say(f"At level {found.alpha:g} (Holm over these tests): {verdict} was found")
