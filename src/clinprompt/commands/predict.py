"""`clinprompt predict`: texts in, structure out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import remark, stage_bars
from clinprompt.errors import TaskError, unknown_name

if TYPE_CHECKING:
    from clinprompt.records import Record
    from clinprompt.tasks.codec import Prediction
    from clinprompt.tasks.definition import TaskDefinition

FORMATS = ("jsonl", "brat", "conll", "bioc")


def predict(
    file: Annotated[str, typer.Argument(help="A task file, or a metaprompt with --source.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[INPUT]...", help="Text files, folders, JSON Lines; none or - is standard input."),
    ] = None,
    to: Annotated[str, typer.Option(help="jsonl, brat, conll or bioc.")] = "jsonl",
    out: Annotated[
        Path | None, typer.Option(help="File (folder for brat) to write; jsonl: default standard output.")
    ] = None,
    with_text: Annotated[
        bool, typer.Option("--with-text", help="jsonl: repeat the input's text in each line.")
    ] = False,
    source: o.Source = None,
    metaprompt: o.Metaprompts = None,
    batch: Annotated[int, typer.Option(min=1, help="Records answered together.")] = 32,
    backbone: o.BackboneName = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    quantise: o.Quantise = None,
    autocast: o.Autocast = False,
    quiet: o.Quiet = False,
) -> None:
    """Predict on texts: files, folders, JSON Lines or standard input.

    Long documents are read in windows on sentence borders; offsets are those of the input.
    JSON Lines in: {"id", "text"} and what the task asks for: "hypothesis" (nli), "question" and "options" (qa),
    "entities" (relations; or BRAT .txt/.ann pairs). JSON Lines out: one answer a line, with offsets, probabilities of
    closed choices, and apart from them `ungrounded` mentions that are not in the text.

    \b
    Examples:
      clinprompt predict my-task.safetensors note.txt
      clinprompt predict my-task.safetensors notes/ --to brat --out annotated/
      cat notes.jsonl | clinprompt predict my-task.safetensors > answers.jsonl
    """
    from clinprompt import api
    from clinprompt.evaluation.inputs import read_inputs

    if to not in FORMATS:
        raise TaskError(unknown_name("format", to, list(FORMATS)))
    if to != "jsonl" and out is None:
        raise TaskError(f"--to {to} writes {'a folder' if to == 'brat' else 'a file'}: name it with --out.")
    if to != "jsonl" and with_text:
        raise TaskError(f"--with-text belongs to jsonl; {to} decides itself what text it holds.")
    artifact = api.load_artifact(file, metaprompt or [])
    model = o.ModelChoice(backbone, dtype, device, quantise, autocast).load(api.backbone_of(artifact))
    who = api.answerer(model, artifact, source=source)
    found = who.stream(read_inputs(who.task, inputs or [], sys.stdin), batch=batch)
    with stage_bars(not quiet and out is not None) as bar:
        answers = _counted(found, bar)
        if to == "jsonl":
            count = _write_lines(who.task, answers, out, with_text)
        else:
            count = _write_records(answers, to, out or Path())
    if out is not None:
        remark(f"{count} records → {out}", quiet)


def _counted(found: Iterator[tuple[Record, Prediction]], bar: Any) -> Iterator[tuple[Record, Prediction]]:
    for done, pair in enumerate(found, start=1):
        if bar:
            bar("predict", done, None, float("nan"))
        yield pair


def _write_lines(
    task: TaskDefinition, answers: Iterator[tuple[Record, Prediction]], out: Path | None, with_text: bool
) -> int:
    from clinprompt.evaluation.answer_line import answer_line

    count = 0
    with _sink(out) as sink:
        for record, prediction in answers:
            line = answer_line(task, prediction, record.text if with_text else None)
            sink.write(json.dumps(line, ensure_ascii=False) + "\n")
            sink.flush()
            count += 1
    return count


@contextmanager
def _sink(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears when it is complete."""
    if out is None:
        yield sys.stdout
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _write_records(answers: Iterator[tuple[Record, Prediction]], to: str, out: Path) -> int:
    from clinprompt.corpora.writers import write_bioc, write_brat, write_conll

    records = [prediction.record for _, prediction in answers]
    {"brat": write_brat, "conll": write_conll, "bioc": write_bioc}[to](records, out)
    return len(records)
