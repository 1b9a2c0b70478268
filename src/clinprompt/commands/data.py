"""`clinprompt data`: the catalog of public corpora, and a check of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinprompt.commands.options import AsJson, DataDir, Quiet
from clinprompt.commands.output import print_json, print_table, remark, say, size
from clinprompt.errors import TaskError

if TYPE_CHECKING:
    from clinprompt.corpora.catalog import CatalogEntry

SPLITS = ("train", "validation", "test")

app = typer.Typer(no_args_is_help=True, help="Public corpora (list, get, verify, show), and a check of your own.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Corpus ids; see `clinprompt data list`.")]
SuiteName = Annotated[str | None, typer.Option("--suite", help="All corpora of this suite.", show_default=False)]


@app.command("list")
def list_(suite: SuiteName = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The catalog: type, role, licence, size, records per split, and what lies on this disk.

    The general benchmarks (GLUE, SuperGLUE, MMLU, commonsense reasoning) have a line each; --suite shows the tasks of
    one. --json lists every task of both kinds.

    \b
    Examples:
      clinprompt data list
      clinprompt data list --suite superglue
    """
    from clinprompt.corpora.catalog import catalog_ids, list_catalog

    chosen = _chosen(None, suite, everything=False) if suite else None
    if as_json:
        print_json(list_catalog(data_dir, chosen))
        return
    _print_corpora(list_catalog(data_dir, chosen or catalog_ids("clinical")), suite or "Public corpora", data_dir)
    if suite is None:
        _print_benchmarks(list_catalog(data_dir, catalog_ids("general")))


def _print_corpora(rows: list[dict[str, Any]], title: str, data_dir: Path | None) -> None:
    from clinprompt.corpora.catalog import resolve_data_dir

    carved = " † validation is set aside from training." if any(row["carved"] for row in rows) else ""
    print_table(
        title,
        ("id", "type", "role", "licence", "download", "train / validation / test", "here"),
        [
            (
                row["id"],
                row["type"],
                row["role"],
                row["licence"] + ("" if row["permissive"] else " *"),
                "" if row["bytes"] is None else size(row["bytes"]),
                " / ".join("†" if row["carved"] and s == "validation" else f"{row['splits'][s]:,}" for s in SPLITS),
                row["local"],
            )
            for row in rows
        ],
        caption=f"* asks for consent.{carved} Data folder: {resolve_data_dir(data_dir)}",
    )


def _print_benchmarks(rows: list[dict[str, Any]]) -> None:
    """One line per suite whose tasks are all general ones."""
    from clinprompt.suites import load_suite, suite_names

    by_id = {row["id"]: row for row in rows}
    lines = []
    for name in suite_names():
        tasks = [task for task, _ in load_suite(name).tasks]
        if all(task in by_id for task in tasks):
            short = ", ".join(task.removeprefix(f"{name}-") for task in tasks)
            here = sum(by_id[task]["local"] for task in tasks)
            lines.append((name, len(tasks), short, f"{here} of {len(tasks)}"))
    caption = "From the Hugging Face hub; `clinprompt data list --suite NAME` shows the tasks and their licences."
    print_table("General benchmarks", ("suite", "tasks", "which", "here"), lines, caption=caption)


@app.command()
def get(
    ids: Ids = None,
    suite: SuiteName = None,
    everything: Annotated[bool, typer.Option("--all", help="All clinical corpora of the catalog.")] = False,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="I have read the licences that are not permissive and accept them.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Download corpora from their public addresses, pinned and checked; an interrupted download continues.

    \b
    Examples:
      clinprompt data get ncbi-disease
      clinprompt data get --suite open-clinical --data-dir corpora
      clinprompt data get --suite glue --accept-licence
    """
    from clinprompt.corpora.catalog import get as fetch

    asks = sys.stdin.isatty() and not as_json
    consent = True if accept_licence else _ask if asks else False
    bars = not (quiet or as_json) and sys.stderr.isatty()
    done = fetch(_chosen(ids, suite, everything), data_dir, consent=consent, show_progress=bars)
    if as_json:
        print_json([{"id": f.id, "folder": str(f.folder), "files": f.downloaded, "bytes": f.bytes} for f in done])
        return
    for found in done:
        got = f"{found.downloaded} files, {size(found.bytes)}" if found.downloaded else "already complete"
        say(f"{found.id}: {got} → {found.folder}")


@app.command()
def verify(ids: Ids = None, suite: SuiteName = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check local copies: every checksum, and the records per split against the catalog. Exit code 2 if one is not ok.

    Without ids, all clinical corpora. --json prints a list of {"id", "ok", "splits", "problems"}; for the general
    benchmarks also "checksums": whether they are known, which they are for files that `get` brought.
    """
    from clinprompt.corpora.catalog import verify as check

    rows = check(_chosen(ids, suite, everything=not (ids or suite)), data_dir)
    if as_json:
        print_json(rows)
    else:
        print_table(
            "",
            ("id", "ok", "train", "validation", "test", "problems"),
            [
                (
                    r["id"],
                    r["ok"],
                    *(r["splits"].get(s) for s in SPLITS),
                    _first(r["problems"]),
                )
                for r in rows
            ],
        )
    if not all(row["ok"] for row in rows):
        raise typer.Exit(2)


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="Corpus id, task YAML, or a synthetic task (sample-events).")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option("-n", min=1, help="How many records.")] = 3,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The first records of a split as JSON: the one command here that prints the text of notes."""
    from clinprompt.corpora.jsonl import record_to_dict
    from clinprompt.task_lookup import load_task

    records = load_task(task, data_dir, splits=(split,)).splits[split][:count]
    found = [record_to_dict(record) for record in records]
    if as_json:
        print_json(found)
        return
    for record in found:
        print(json.dumps(record, ensure_ascii=False, indent=1))


@app.command()
def check(
    task: Annotated[str, typer.Argument(help="Your task YAML, or a corpus id.")],
    backbone: Annotated[
        str, typer.Option(help="Whose tokens and context lengths are measured in; none: lengths are not checked.")
    ] = "embedded",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Read a task's corpus and report what would spoil training: label histogram, offsets that do not match, empty and
    duplicate examples, overlap between splits, texts longer than the context. Exit code 2 if there are errors.

    \b
    Example:
      clinprompt data check my-task.yaml
    """
    from clinprompt.checking import check_task

    length, window = None, None
    if backbone != "none":
        from clinprompt.backbone.model import load_backbone

        model = load_backbone(Path(backbone) if Path(backbone).is_dir() else backbone)
        length, window = model.length, model.context
    report = check_task(task, data_dir, length=length, window=window)
    if as_json:
        print_json(report.as_dict())
    else:
        for line in report.lines():
            say(line)
    if not report.ok:
        raise typer.Exit(2)


def _chosen(ids: list[str] | None, suite: str | None, everything: bool) -> list[str]:
    from clinprompt.corpora.catalog import catalog_ids
    from clinprompt.suites import load_suite

    if everything:
        return list(catalog_ids("clinical"))
    chosen = list(ids or [])
    if suite is not None:
        chosen += [name for name, _ in load_suite(suite).tasks if name in catalog_ids() and name not in chosen]
    if not chosen:
        raise TaskError("name corpora by id, or give --suite NAME or --all; `clinprompt data list` shows them.")
    return chosen


def _ask(entry: CatalogEntry) -> bool:
    remark(f"{entry.id} ({entry.title}): licence {entry.licence}. {entry.note}")
    return typer.confirm("Do you accept it?", default=False, err=True)


def _first(problems: list[Any]) -> str:
    more = f" (+{len(problems) - 1})" if len(problems) > 1 else ""
    return f"{problems[0]}{more}" if problems else ""
