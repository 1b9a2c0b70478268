"""Predicted mentions as rows of NOTE_NLP, OMOP common data model 5.4 (https://ohdsi.github.io/CommonDataModel).

A row says which words were found and where; it claims no concept that is not the record's, no section, no time, and
leaves `term_exists` empty, because our tasks find mentions and do not judge whether they hold for the patient.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from clinprompt.corpora.writers import write_text
from clinprompt.errors import CorpusError, TaskError
from clinprompt.records import Entity, Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.version import __version__

# Column: its width in characters where the model limits it.
COLUMNS: dict[str, int | None] = {
    "note_nlp_id": None,
    "note_id": None,
    "section_concept_id": None,
    "snippet": 250,
    "offset": 50,
    "lexical_variant": 250,
    "note_nlp_concept_id": None,
    "note_nlp_source_concept_id": None,
    "nlp_system": 250,
    "nlp_date": None,
    "nlp_datetime": None,
    "term_exists": 1,
    "term_temporal": 50,
    "term_modifiers": 2000,
}
LARGEST_ID = 2**31 - 1  # the model's integers
CONCEPT_PREFIX = "omop:"
MENTIONS, NOTES = "note_nlp.csv", "note_ids.csv"


@dataclass(frozen=True)
class Written:
    """How much went into the tables, and what its columns were too narrow for."""

    notes: int
    mentions: int
    shortened: int  # surface forms cut to the 250 characters of lexical_variant; their offsets are whole
    narrowed: int  # rows whose modifiers did not all fit into 2,000 characters


def require_mentions(tasks: Iterable[TaskDefinition]) -> None:
    """Raises TaskError for a task whose answer is no mention: NOTE_NLP has no row for it."""
    for task in tasks:
        if task.type not in ("ner", "relation"):
            raise TaskError(f"{task.name} is a {task.type} task, and NOTE_NLP holds mentions. Write jsonl or fhir.")


def write_note_nlp(
    answers: Iterable[tuple[TaskDefinition, Prediction]],
    folder: Path,
    *,
    with_text: bool = False,
    when: datetime | None = None,
) -> Written:
    """Write ``note_nlp.csv`` (all 14 columns) and ``note_ids.csv`` (note_id, record id) into `folder`.

    Predictions of one record by several tasks share its note_id: the record's id where all ids are whole numbers, else
    1, 2, … in the order they come. `offset` holds ``start-end`` of each fragment, separated by ``;`` (Unicode code
    points, half-open); where that is wider than the column, from the first start to the last end, with all spans in
    `term_modifiers`. `with_text` fills `snippet`. Raises CorpusError if an id is given to two texts.
    """
    found = [(task, prediction) for task, prediction in answers]
    require_mentions(task for task, _ in found)
    numbers = _note_ids([prediction.record for _, prediction in found], Path(folder))
    moment = (when or datetime.now(UTC)).astimezone(UTC)
    rows: list[list[str]] = []
    shortened = narrowed = 0
    for task, prediction in found:
        record = prediction.record
        for entity in record.entities:
            row = _row(task, record, entity, with_text) | {"note_nlp_id": str(len(rows) + 1)}
            row |= {"note_id": str(numbers[record.id]), "nlp_date": f"{moment:%Y-%m-%d}"}
            row["nlp_datetime"] = f"{moment:%Y-%m-%d %H:%M:%S}"
            modifiers = _fitting(_modifiers(task, record, entity, row["offset"]), COLUMNS["term_modifiers"] or 0)
            row["term_modifiers"], whole = modifiers
            narrowed += not whole
            shortened += len(entity.text_in(record.text)) > len(row["lexical_variant"])
            rows.append([row.get(column, "") for column in COLUMNS])
    write_text(Path(folder) / MENTIONS, _csv(list(COLUMNS), rows))
    write_text(Path(folder) / NOTES, _csv(["note_id", "record"], [[str(n), name] for name, n in numbers.items()]))
    return Written(len(numbers), len(rows), shortened, narrowed)


def _note_ids(records: list[Record], folder: Path) -> dict[str, int]:
    texts: dict[str, str] = {}
    for record in records:
        if texts.setdefault(record.id, record.text) != record.text:
            raise CorpusError(folder, None, f"two texts share the id {record.id!r}.", "Give each note its own id.")
    whole = [_whole(name) for name in texts]
    if all(number is not None for number in whole) and len(set(whole)) == len(whole):
        return {name: number for name, number in zip(texts, whole, strict=True) if number is not None}
    return {name: place for place, name in enumerate(texts, start=1)}


def _whole(name: str) -> int | None:
    plain = name.isascii() and name.isdigit() and len(name) <= 10
    return int(name) if plain and int(name) <= LARGEST_ID else None


def _row(task: TaskDefinition, record: Record, entity: Entity, with_text: bool) -> dict[str, str]:
    concepts = [_whole(c[len(CONCEPT_PREFIX) :]) for c in entity.concepts if c.lower().startswith(CONCEPT_PREFIX)]
    return {
        "section_concept_id": "0",
        "snippet": _snippet(record.text, entity) if with_text else "",
        "offset": _offset(entity),
        "lexical_variant": entity.text_in(record.text)[: COLUMNS["lexical_variant"]],
        "note_nlp_concept_id": str(next((c for c in concepts if c is not None), 0)),
        "note_nlp_source_concept_id": "0",
        "nlp_system": f"clinprompt {__version__}; task {task.name}"[: COLUMNS["nlp_system"]],
    }


def _offset(entity: Entity) -> str:
    places = ";".join(f"{start}-{end}" for start, end in entity.spans)
    return places if len(places) <= (COLUMNS["offset"] or 0) else f"{entity.start}-{entity.end}"


def _snippet(text: str, entity: Entity) -> str:
    """At most 250 characters of the note with the mention in their middle; line breaks become spaces."""
    room = max(0, (COLUMNS["snippet"] or 0) - (entity.end - entity.start))
    begin = max(0, entity.start - room // 2)
    return "".join(" " if c in "\r\n\t" else c for c in text[begin : begin + (COLUMNS["snippet"] or 0)])


def _modifiers(task: TaskDefinition, record: Record, entity: Entity, offset: str) -> Iterator[str]:
    """``name=value`` pairs; in values, everything but letters, digits and ``_.-:;~/`` and space is percent-encoded."""
    pairs = [("task", task.name), ("type", entity.type), ("id", entity.id)]
    spans = ";".join(f"{start}-{end}" for start, end in entity.spans)
    pairs += [("spans", spans)] if spans != offset else []
    pairs += [("concept", concept) for concept in entity.concepts]
    # A relation between concepts stands at the first mention of its head.
    own = [r for r in record.relations if entity in record.mentions(r.head)[:1]]
    pairs += [("relation", f"{r.type}:{r.tail}") for r in own]
    for name, value in pairs:
        yield f"{name}={quote(value, safe=' :;/', errors='backslashreplace')}"


def _fitting(parts: Iterator[str], width: int) -> tuple[str, bool]:
    """The parts in order as far as they fit together, and whether all did."""
    text = ""
    for part in parts:
        longer = f"{text},{part}" if text else part
        if len(longer) > width:
            return text, False
        text = longer
    return text, True


def _csv(header: list[str], rows: list[list[str]]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink)  # with CRLF between rows, so that a lone carriage return in a mention is quoted too
    writer.writerow(header)
    writer.writerows(rows)
    return sink.getvalue()
