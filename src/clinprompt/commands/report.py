"""`clinprompt report`: results of a benchmark as tables, figures and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import print_json, remark, say


def report(
    results: Annotated[list[Path], typer.Argument(help="Results files (JSON Lines) of clinprompt benchmark.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; files in it are replaced.")],
    reference: Annotated[
        str | None,
        typer.Option(help="The method that all others are tested against. Default: mpt.", show_default=False),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Which backbone's results, if the files hold several.", show_default=False)
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Which suite's results, if the files hold several.", show_default=False)
    ] = None,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Tables only; needs no matplotlib.")] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Turn results into a report: one HTML page, Markdown, CSV, SVG.

    The main table, the paper's figures where the target is the same, few-shot curves, ablations, costs, tuning
    budgets, errors. Every comparison is tested and corrected (docs/report.md says how); what came out is also said in
    words, and what is missing. The page asks nothing of any server. The same results give the same files.
    --json prints {"page", "files", "conclusions"}.

    \b
    Examples:
      clinprompt report results.jsonl --out report
      clinprompt report cpu.jsonl gpu.jsonl --out report --backbone llama-3.1-8b
      clinprompt report results.jsonl --out against-lora --reference lora --no-figures
    """
    from clinprompt.experiments.report import report as write_report

    written = write_report(results, out, reference=reference, backbone=backbone, suite=suite, draw=not no_figures)
    if as_json:
        print_json(
            {
                "page": str(written.page),
                "files": [str(path) for path in written.files],
                "conclusions": list(written.conclusions),
            }
        )
        return
    for sentence in written.conclusions:
        say(f"- {sentence}")
    remark(f"written: {written.page} and {len(written.files) - 1} files beside it", quiet)
