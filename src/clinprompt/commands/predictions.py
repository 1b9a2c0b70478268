"""Predictions into the formats of `clinprompt predict`, as they come."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from clinprompt.commands.output import remark
from clinprompt.errors import TaskError, unknown_name

if TYPE_CHECKING:
    from clinprompt.tasks.codec import Prediction
    from clinprompt.tasks.definition import TaskDefinition

    Answers = Iterable[list[tuple[TaskDefinition, Prediction]]]  # per note: what each task said

CORPORA = ("brat", "conll", "bioc")
FORMATS = ("jsonl", *CORPORA, "fhir", "omop")
FOLDERS = ("brat", "omop")
LINES = (".ndjson", ".jsonl")


@dataclass(frozen=True)
class Target:
    """Where predictions go and in which format."""

    to: str
    out: Path | None = None
    with_text: bool = False
    mapping: Path | None = None
    quiet: bool = False

    def check(self, tasks: list[TaskDefinition]) -> None:
        """Raises TaskError for options that do not go together, before a model is loaded."""
        if self.to not in FORMATS:
            raise TaskError(unknown_name("format", self.to, list(FORMATS)))
        if self.to not in ("jsonl", "fhir") and self.out is None:
            raise TaskError(
                f"--to {self.to} writes a {'folder' if self.to in FOLDERS else 'file'}: name it with --out."
            )
        if self.to in CORPORA and self.with_text:
            raise TaskError(
                f"--with-text belongs to jsonl, fhir and omop; {self.to} decides itself what text it holds."
            )
        if self.mapping is not None and self.to != "fhir":
            raise TaskError("--mapping belongs to --to fhir.")
        if self.to in CORPORA and len(tasks) > 1:
            raise TaskError(f"--to {self.to} holds one task; write jsonl, fhir or omop, or one folder per task.")
        if self.to == "omop":
            from clinprompt.doors.omop import require_mentions

            require_mentions(tasks)
        elif self.to == "fhir":
            from clinprompt.doors.fhir_mapping import load_mapping

            load_mapping(self.mapping)

    def filed(self) -> Callable[[str], str] | None:
        """What of a note's id its answers are filed under: two notes may not share it. None where lines stand in the
        order of the notes and nothing is filed."""
        if self.to == "jsonl":
            return None
        return _file_name if self.to == "brat" or (self.to == "fhir" and _is_folder(self.out)) else str

    def write(self, answers: Answers) -> int:
        """Write all answers; returns the number of notes."""
        writers: dict[str, Callable[[Answers, Target], int]] = {"jsonl": _lines, "fhir": _bundles, "omop": _rows}
        return writers.get(self.to, _corpus)(answers, self)


def _lines(answers: Answers, target: Target) -> int:
    from clinprompt.evaluation.answer_line import answer_line

    count = 0
    with _sink(target.out) as sink:
        for note in answers:
            for task, prediction in note:
                line = answer_line(task, prediction, prediction.record.text if target.with_text else None)
                sink.write(json.dumps(line, ensure_ascii=False) + "\n")
            sink.flush()
            count += 1
    return count


def _corpus(answers: Answers, target: Target) -> int:
    from clinprompt.corpora.writers import write_bioc, write_brat, write_conll

    records = [prediction.record for note in answers for _, prediction in note]
    {"brat": write_brat, "conll": write_conll, "bioc": write_bioc}[target.to](records, target.out or Path())
    return len(records)


def _rows(answers: Answers, target: Target) -> int:
    from clinprompt.doors.omop import write_note_nlp

    found = [pair for note in answers for pair in note]
    written = write_note_nlp(found, target.out or Path(), with_text=target.with_text)
    losses = {
        "mentions that are not in the text were left out": sum(len(p.ungrounded) for _, p in found),
        "surface forms were cut to 250 characters (their offsets are whole)": written.shortened,
        "rows have more modifiers than fit into 2,000 characters": written.narrowed,
    }
    for what, count in losses.items():
        if count:
            remark(f"{count} {what}", target.quiet)
    return written.notes


def _bundles(answers: Answers, target: Target) -> int:
    """One bundle a line on standard output or in an .ndjson file, else one file per note in a folder."""
    from clinprompt.doors.fhir import bundle, unmapped
    from clinprompt.doors.fhir_check import can_validate, validate
    from clinprompt.doors.fhir_mapping import load_mapping

    mapping, checks = load_mapping(target.mapping), can_validate()
    unknown: Counter[str] = Counter()

    def made() -> Iterator[tuple[str, dict[str, Any]]]:
        for note in answers:
            found = bundle(note, mapping, with_text=target.with_text)
            if checks:
                validate(found)
            unknown.update(unmapped(note, mapping))
            yield note[0][1].record.id, found

    count = _bundle_files(made(), target.out) if _is_folder(target.out) else _bundle_lines(made(), target.out)
    if unknown:
        listed = ", ".join(f"{kind} ({number})" for kind, number in sorted(unknown.items()))
        remark(
            f"No FHIR resource for mentions of: {listed}. Name one under `types` in a file for --mapping.", target.quiet
        )
    if not checks:
        remark("Not validated: pip install 'clinprompt[fhir]' and every bundle is.", target.quiet)
    return count


def _is_folder(out: Path | None) -> bool:
    return out is not None and out.suffix.lower() not in LINES


def _bundle_lines(bundles: Iterable[tuple[str, dict[str, Any]]], out: Path | None) -> int:
    count = 0
    with _sink(out) as sink:
        for _, found in bundles:
            sink.write(json.dumps(found) + "\n")
            sink.flush()
            count += 1
    return count


def _file_name(identifier: str) -> str:
    """The name of a note's file, as a file system that knows no capitals sees it."""
    from clinprompt.corpora.source import safe_file_name

    return safe_file_name(identifier).lower()


def _bundle_files(bundles: Iterable[tuple[str, dict[str, Any]]], out: Path | None) -> int:
    from clinprompt.corpora.source import safe_file_name
    from clinprompt.corpora.writers import write_text

    folder, used = out or Path(), dict[str, str]()
    for identifier, found in bundles:
        name = safe_file_name(identifier)
        if name.lower() in used:
            raise TaskError(f"records {used[name.lower()]!r} and {identifier!r} share the file name {name}.json.")
        used[name.lower()] = identifier
        write_text(folder / f"{name}.json", json.dumps(found, indent=1) + "\n")
    return len(used)


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
