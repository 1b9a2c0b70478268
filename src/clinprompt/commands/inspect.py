"""`clinprompt inspect`: what a prompt file is."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from clinprompt.commands import options as o
from clinprompt.commands.output import print_json, print_table, remark, say, size, stdout
from clinprompt.errors import ArtifactError


def inspect(
    file: Annotated[str, typer.Argument(help="A metaprompt, a task file, or embedded.")],
    source: o.Source = None,
    neighbours: Annotated[int, typer.Option("-k", min=1, help="Nearest tokens per position.")] = 5,
    plot: Annotated[
        Path | None, typer.Option(help="Write the heat map of task similarity as SVG.", show_default=False)
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write everything as one HTML page.", show_default=False)
    ] = None,
    card_only: Annotated[bool, typer.Option("--card", help="Only the card: no backbone is loaded.")] = False,
    metaprompt: o.Metaprompts = None,
    backbone: o.BackboneName = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    as_json: o.AsJson = False,
) -> None:
    """Show what a prompt is.

    Its card (tasks, licences, backbone, scores), the nearest vocabulary tokens and the norm of each position, how
    similar the tasks of a metaprompt are, and where their vectors departed from 1.

    \b
    Examples:
      clinprompt inspect embedded
      clinprompt inspect runs/sample/metaprompt.safetensors --source sample-drugs --plot tasks.svg
      clinprompt inspect my-task.safetensors --card --json
    """
    from clinprompt import api
    from clinprompt.portrait import portrait
    from clinprompt.prompts.inspect import describe, heat_map_svg

    path = api.artifact_path(file)
    if card_only:
        if plot or html_file or source:
            raise ArtifactError("--card shows the card only; leave out --plot, --html and --source.")
        found = describe(path)
    else:
        artifact = api.load_artifact(path, metaprompt or [])
        model = o.ModelChoice(backbone, dtype, device).load(api.backbone_of(artifact))
        found = portrait(path, artifact, model, neighbours, source)
    if plot is not None:
        if "similarity" not in found:
            raise ArtifactError("--plot draws the similarity of a metaprompt's tasks; this file holds one task.")
        plot.write_text(heat_map_svg(**_matrix(found)), encoding="utf-8")
    if html_file is not None:
        html_file.write_text(page(found), encoding="utf-8")
    if as_json:
        print_json(found)
        return
    _print_card(found)
    if "changes" in found:
        _print_changes(found)
    elif not card_only:
        _print_positions(found)
        _print_tasks(found)
    for written in (plot, html_file):
        if written is not None:
            remark(f"written: {written}")


def _matrix(found: dict[str, Any]) -> dict[str, Any]:
    return {"names": found["similarity"]["tasks"], "matrix": found["similarity"]["cosine"]}


def _print_card(found: dict[str, Any]) -> None:
    card = found["card"]
    intact = "values match their digest" if found["intact"] else "DAMAGED: values do not match their digest"
    say(f"{found['file']}: {card['kind']}, {size(found['bytes'])}, {found['numbers']:,} numbers, {intact}")
    note = card["backbone"]
    where = "" if card["adapter"] else f"; prompt at the {card['position']}"
    say(f"backbone {note['name']} ({note['fingerprint']}), width {note['width']}{where}")
    details = ", ".join(f"{key} {value}" for key, value in card["adapter"].items())
    method = " ".join(part for part in (card["method"], card["mode"], f"({details})" if details else "") if part)
    started = f", started from metaprompt {card['metaprompt']}" if card["metaprompt"] else ""
    say(f"method {method or 'unknown'}{started}; clinprompt {card['library']}")
    notes = {note["task"]: note for note in card["data"]}
    rows = []
    for task in card["tasks"]:
        data = notes.get(task["name"], {})
        rows.append(
            (
                task["name"],
                task["type"],
                ", ".join(task["labels"]),
                data.get("examples"),
                data.get("licence", ""),
                {True: "yes", False: "no", None: "not stated"}[data.get("permissive")],
            )
        )
    print_table("Tasks", ("task", "type", "labels", "examples", "licence of the data", "permissive"), rows)
    if card["metrics"]:
        say("metrics: " + json.dumps(card["metrics"], ensure_ascii=False))


def _print_positions(found: dict[str, Any]) -> None:
    known = found["norms"]
    rows = [
        (position, norm, "  ".join(f"{n['token']!r} {n['cosine']:.2f}" for n in near))
        for position, (norm, near) in enumerate(zip(known["positions"], found["positions"], strict=True))
    ]
    print_table(
        f"Positions of {found['shown']}",
        ("position", "norm", "nearest tokens (cosine)"),
        rows,
        caption=f"norms of vocabulary embeddings: mean {known['vocabulary_mean']:.2f}, "
        f"largest {known['vocabulary_largest']:.2f}",
    )


def _print_changes(found: dict[str, Any]) -> None:
    print_table(
        "What the adapter changes",
        ("part", "norm", "relative to what was there"),
        [(line["part"], line["norm"], line["relative"]) for line in found["changes"]],
    )


def _print_tasks(found: dict[str, Any]) -> None:
    if "similarity" not in found:
        return
    names, matrix = found["similarity"]["tasks"], found["similarity"]["cosine"]
    table = Table(title="Similarity of the tasks' prompts (cosine, their mean taken off)", title_justify="left")
    table.add_column("")
    for number in range(len(names)):
        table.add_column(str(number + 1), justify="right")
    for number, (name, row) in enumerate(zip(names, matrix, strict=True), start=1):
        table.add_row(f"{number} {name}", *(_heat(value) for value in row))
    console = stdout()
    if not console.is_terminal:
        console.width = max(console.width, 60 + 8 * len(names))
    console.print(table)
    print_table(
        "Where u and v departed from 1 (root mean square; the prompt changed most at …)",
        ("task", "u", "v", "u·v", "positions", "dimensions"),
        [
            (
                d["task"],
                d["u"],
                d["v"],
                d["product"],
                ", ".join(str(i) for i, _ in d["positions"]),
                ", ".join(str(i) for i, _ in d["dimensions"]),
            )
            for d in found["departures"]
        ],
    )


def _heat(value: float) -> Text:
    """A number on the colour of its value: blue below 0, orange above."""
    strength = min(1.0, abs(value))
    base = (230, 97, 1) if value > 0 else (33, 102, 172)
    red, green, blue = (round(255 + (c - 255) * strength) for c in base)
    return Text(f"{value:.2f}", style=f"black on rgb({red},{green},{blue})" if strength > 0.05 else "")


def page(found: dict[str, Any]) -> str:
    """Everything on one self-contained HTML page."""
    from clinprompt.prompts.inspect import heat_map_svg

    title = html.escape(f"{found['file']} ({found['card']['kind']})")
    parts = ["<!doctype html><meta charset='utf-8'>", f"<title>{title}</title>"]
    parts.append("<style>body{font:15px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left}</style>")
    parts.append(f"<h1>{title}</h1>")
    if "similarity" in found:
        parts.append(heat_map_svg(**_matrix(found)))
    parts += _changes_html(found) if "changes" in found else _positions_html(found)
    card = html.escape(json.dumps(found["card"], indent=1, ensure_ascii=False))
    parts.append(f"<h2>Card</h2><pre>{card}</pre>")
    return "\n".join(parts) + "\n"


def _changes_html(found: dict[str, Any]) -> list[str]:
    lines = [f"<tr><td>{html.escape(c['part'])}<td>{c['norm']}<td>{c['relative']}</tr>" for c in found["changes"]]
    head = "<tr><th>part<th>norm of the change<th>relative to what was there</tr>"
    return ["<h2>What the adapter changes</h2><table>", head, *lines, "</table>"]


def _positions_html(found: dict[str, Any]) -> list[str]:
    parts = []
    parts.append(f"<h2>Positions of {html.escape(found['shown'])}</h2><table>")
    parts.append("<tr><th>position<th>norm<th>nearest tokens (cosine)</tr>")
    for position, near in enumerate(found["positions"]):
        words = ", ".join(f"{html.escape(repr(n['token']))} {n['cosine']:.2f}" for n in near)
        parts.append(f"<tr><td>{position}<td>{found['norms']['positions'][position]:.3f}<td>{words}</tr>")
    return [*parts, "</table>"]
