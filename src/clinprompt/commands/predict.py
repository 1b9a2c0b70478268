"""`clinprompt predict`: texts in, structure out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from clinprompt.commands import options as o
from clinprompt.commands.output import remark, stage_bars
from clinprompt.commands.predictions import Target

if TYPE_CHECKING:
    from clinprompt.evaluation.answerer import Answerer
    from clinprompt.records import Record
    from clinprompt.tasks.codec import Prediction
    from clinprompt.tasks.definition import TaskDefinition


def predict(
    file: Annotated[str, typer.Argument(help="A task file, or a metaprompt or multi-task adapter with --task.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[INPUT]...", help="Text files, folders, JSON Lines; none or - is standard input."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A further task file, asked about the same texts (jsonl, fhir, omop). May be repeated."),
    ] = None,
    to: Annotated[str, typer.Option(help="jsonl, brat, conll, bioc, fhir or omop.")] = "jsonl",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, folder for brat and omop; fhir: an .ndjson file, or a folder with a bundle per note. "
            "jsonl, fhir: default standard output."
        ),
    ] = None,
    with_text: Annotated[
        bool,
        typer.Option("--with-text", help="Repeat the input's text (omop: a snippet of it) in what is written."),
    ] = False,
    mapping: Annotated[
        Path | None,
        typer.Option(help="fhir: YAML with entity types and their resources, laid over the shipped one."),
    ] = None,
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
      clinprompt predict drugs.safetensors notes/ --also problems.safetensors --to fhir --out bundles/
      cat notes.jsonl | clinprompt predict my-task.safetensors > answers.jsonl
    """
    from clinprompt import api

    artifacts = [api.load_artifact(name, metaprompt or []) for name in (file, *(also or []))]
    target = Target(to, out, with_text, mapping, quiet)
    sources = [source, *[None] * (len(artifacts) - 1)]
    target.check([api.own_definition(artifact, s) for artifact, s in zip(artifacts, sources, strict=True)])
    model = o.ModelChoice(backbone, dtype, device, quantise, autocast).load(api.backbone_of(artifacts[0]))
    asked = [api.answerer(model, artifact, source=s) for artifact, s in zip(artifacts, sources, strict=True)]
    found = _answers(asked, inputs or [], batch, target)
    with stage_bars(not quiet and out is not None) as bar:
        count = target.write(_counted(found, bar))
    if out is not None:
        remark(f"{count} records → {out}", quiet)


def _answers(
    asked: list[Answerer], inputs: list[Path], batch: int, target: Target
) -> Iterator[list[tuple[TaskDefinition, Prediction]]]:
    """Per record, what each task said; the inputs are read once for each task, which may want other fields.

    Where answers are filed by id in a place of their own, all inputs are read first: what collides must be known
    before an hour of predictions.
    """
    from clinprompt.evaluation.inputs import read_inputs, standard_input

    piped = standard_input().read() if len(asked) > 1 and (not inputs or Path("-") in inputs) else None

    def stdin() -> TextIO:
        return standard_input() if piped is None else StringIO(piped)

    filed = target.filed()
    read: list[Iterable[Record]] = [read_inputs(who.task, inputs, stdin(), filed=filed) for who in asked]
    if filed is not None and target.out is not None:
        read = [list(records) for records in read]
    streams = [who.stream(records, batch=batch) for who, records in zip(asked, read, strict=True)]
    for answers in zip(*streams, strict=True):
        yield [(who.task, prediction) for who, (_, prediction) in zip(asked, answers, strict=True)]


def _counted(found: Iterator[Any], bar: Any) -> Iterator[Any]:
    for done, answers in enumerate(found, start=1):
        if bar:
            bar("predict", done, None, float("nan"))
        yield answers
