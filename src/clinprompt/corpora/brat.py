"""BRAT standoff: a text file and an annotation file of the same name.

Read: text bounds (T), relations (R), events (E), attributes (A, M), equivalences (*), normalisations (N), notes (#).
Format: https://brat.nlplab.org/standoff.html
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clinprompt.corpora.source import (
    BOM,
    SurfaceMismatchError,
    checked_entity,
    document_id,
    files_in,
    merge_spans,
    numbered_lines,
    read_text,
    shown,
)
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation, Span

logger = logging.getLogger(__name__)

PLAIN_CONCEPT = "concept:"
"""Stands for the database of a concept that has none, where our writer needs one (``database:id``)."""

Mismatch = Literal["error", "skip"]
Row = tuple[int, list[str]]  # line number, tab-separated columns


def read_brat(
    folder_or_txt: Path,
    *,
    attributes: bool = False,
    join_line_breaks: bool = False,
    mismatch: Mismatch = "error",
    encoding: str = "utf-8",
) -> list[Record]:
    """One record per .txt/.ann pair below a folder (or the one pair named); the id is the file's name.

    Relations: R lines, and one per event argument, from trigger to argument, its type the role (a number that BRAT
    appends to a repeated role is dropped). An event as argument stands for its trigger. N lines become `concepts`
    (``Resource:id``). Kept in `meta`: `attributes` (entity or relation id → {name: value or True}), `equivalents`
    ([type, [ids]]), `notes`, and `events` (event id → trigger id).

    attributes: refine entity types by them: ``Type=value``, ``Type=Name`` for a flag; several are joined by ``+``.
    join_line_breaks: fragments that only white space separates become one span.
    mismatch: "skip" leaves out mentions whose offsets do not select the quoted text, and what refers to them, and
    counts them in the log; "error" raises.

    Text is kept as it is in the file. Where the offsets hold only without the carriage returns of CRLF, or with the
    byte order mark counted, that text is taken. Raises CorpusError with file, line and cure.
    """
    path = Path(folder_or_txt)
    records = []
    for text_file, annotation_file, record_id in _pairs(path):
        texts = _candidate_texts(read_text(text_file, encoding, keep_bom=True))
        document = _Document.parse(annotation_file, read_text(annotation_file, encoding))
        records.append(document.record(record_id, texts, attributes, join_line_breaks, mismatch))
    return records


def _pairs(path: Path) -> list[tuple[Path, Path, str]]:
    if path.suffix in (".txt", ".ann") and not path.is_dir():
        texts, annotations, root = {path.with_suffix(".txt")}, {path.with_suffix(".ann")}, path.parent
    else:
        texts, annotations, root = set(files_in(path, ".txt")), set(files_in(path, ".ann")), path
    if not texts and not annotations:
        raise CorpusError(path, None, "no .txt and .ann files here.", "Name the folder that holds the pairs.")
    for text in sorted(texts):
        if not text.with_suffix(".ann").is_file():
            if not annotations:
                raise CorpusError(path, None, "no .ann files here.", "Put them beside the .txt files.")
            cure = "Add it (an empty file means: no annotation), or remove the text."
            raise CorpusError(text, None, "has no .ann file beside it.", cure)
    for annotation in sorted(annotations):
        if not annotation.with_suffix(".txt").is_file():
            raise CorpusError(annotation, None, "has no .txt file beside it.", "Add the text, or remove the .ann file.")
    return [(text, text.with_suffix(".ann"), document_id(text, root)) for text in sorted(texts)]


def _candidate_texts(raw: str) -> list[str]:
    """The texts that offsets may refer to, likeliest first: tools differ in counting BOM and carriage returns."""
    texts = [raw.removeprefix(BOM), raw]
    texts += [text.replace("\r\n", "\n") for text in texts]
    return list(dict.fromkeys(texts))


@dataclass(slots=True)
class _Document:
    """The rows of one annotation file by kind."""

    path: Path
    bounds: dict[str, Row] = field(default_factory=dict)
    relations: dict[str, Row] = field(default_factory=dict)
    events: dict[str, Row] = field(default_factory=dict)
    attributes: list[Row] = field(default_factory=list)
    normalisations: list[Row] = field(default_factory=list)
    equivalences: list[Row] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)

    @classmethod
    def parse(cls, path: Path, text: str) -> _Document:
        document = cls(path)
        named = {"T": document.bounds, "R": document.relations, "E": document.events}
        listed = {
            "A": document.attributes,
            "M": document.attributes,
            "N": document.normalisations,
            "*": document.equivalences,
            "#": document.notes,
        }
        for number, line in numbered_lines(text):
            if not line.strip():
                continue
            columns = line.split("\t")
            kind, key = line[0], columns[0].strip()
            if len(columns) < 2 or kind not in named | listed or len(key.split()) != 1:
                raise CorpusError(path, number, "not a BRAT line.", "Lines are `T1<TAB>Type start end<TAB>text` etc.")
            if kind in listed:
                listed[kind].append((number, columns))
            elif key in named[kind]:
                raise CorpusError(path, number, f"{key} is defined twice.", "Give each annotation its own number.")
            else:
                named[kind][key] = (number, columns)
        return document

    def record(self, record_id: str, texts: list[str], refine: bool, join: bool, mismatch: Mismatch) -> Record:
        text, entities, skipped = self._ground(texts, join, mismatch)
        resolve = self._resolver(entities, skipped)
        relations = self._relations(resolve) + self._event_arguments(resolve)
        known = {r.id for r in relations}
        attributes = self._attributes(resolve, known, skipped)
        self._add_concepts(entities, resolve)
        if refine:
            for key, values in attributes.items():
                if key in entities:
                    entities[key] = replace(entities[key], type=_refined(entities[key].type, values))
        meta: dict[str, Any] = {
            "attributes": attributes,
            "equivalents": self._equivalents(resolve),
            "notes": [_note(columns) for _, columns in self.notes],
            "events": {key: trigger for key in self.events if (trigger := resolve(0, key)) is not None},
        }
        return Record(
            record_id,
            text,
            entities=tuple(entities.values()),
            relations=tuple(relations),
            meta={key: value for key, value in meta.items() if value},
        )

    def _ground(self, texts: list[str], join: bool, mismatch: Mismatch) -> tuple[str, dict[str, Entity], set[str]]:
        """The text under which the offsets hold, with its entities and the ids of those left out."""
        attempts = []
        for text in texts:
            entities, failures = self._entities(text, join)
            if not failures:
                return text, entities, set()
            attempts.append((len(failures), text, entities, failures))
        _, text, entities, failures = min(attempts, key=lambda attempt: attempt[0])
        if mismatch == "error":
            raise next(iter(failures.values()))
        logger.warning("%s: left out %d mentions whose offsets do not hold", self.path.name, len(failures))
        return text, entities, set(failures)

    def _entities(self, text: str, join: bool) -> tuple[dict[str, Entity], dict[str, SurfaceMismatchError]]:
        entities: dict[str, Entity] = {}
        failures: dict[str, SurfaceMismatchError] = {}
        for key, (number, columns) in self.bounds.items():
            kind, spans = _parse_bound(self.path, number, columns)
            quoted = "\t".join(columns[2:]) if len(columns) > 2 else None
            try:
                entity = checked_entity(self.path, number, text, id=key, type=kind, spans=spans, quoted=quoted)
            except SurfaceMismatchError as error:
                failures[key] = error
                continue
            entities[key] = replace(entity, spans=merge_spans(text, entity.spans)) if join else entity
        return entities, failures

    def _resolver(self, entities: dict[str, Entity], skipped: set[str]) -> Callable[[int, str], str | None]:
        """(line, reference) → entity id; None for what was left out. Events stand for their trigger."""
        triggers = {}
        for key, (number, columns) in self.events.items():
            arguments = _arguments(self.path, number, columns[1])
            if not arguments:
                raise CorpusError(self.path, number, f"event {key} has no trigger.", "Write `E1<TAB>Type:T1 Role:T2`.")
            triggers[key] = (number, arguments[0][1])

        def resolve(number: int, reference: str) -> str | None:
            if reference in triggers:
                number, reference = triggers[reference]
            if reference in entities:
                return reference
            if reference in skipped:
                return None
            problem = f"refers to {shown(reference)}, which is not annotated in this file."
            raise CorpusError(self.path, number, problem, "Add the annotation, or remove the reference.")

        return resolve

    def _relations(self, resolve: Callable[[int, str], str | None]) -> list[Relation]:
        relations = []
        for key, (number, columns) in self.relations.items():
            kind, _, rest = columns[1].strip().partition(" ")
            arguments = _arguments(self.path, number, rest)
            if len(arguments) != 2:
                problem = f"relation {key} has {len(arguments)} arguments instead of two."
                raise CorpusError(self.path, number, problem, "Write `R1<TAB>Type Arg1:T1 Arg2:T2`.")
            head, tail = (resolve(number, reference) for _, reference in sorted(arguments, key=_argument_order))
            if head is not None and tail is not None:
                relations.append(Relation(kind, head, tail, key))
        return relations

    def _event_arguments(self, resolve: Callable[[int, str], str | None]) -> list[Relation]:
        relations = []
        for key, (number, columns) in self.events.items():
            trigger = resolve(number, key)
            arguments = _arguments(self.path, number, columns[1])[1:]
            for index, (role, reference) in enumerate(arguments, start=1):
                target = resolve(number, reference)
                if trigger is not None and target is not None:
                    relations.append(Relation(role.rstrip("0123456789") or role, trigger, target, f"{key}.{index}"))
        return relations

    def _attributes(
        self, resolve: Callable[[int, str], str | None], relations: set[str], skipped: set[str]
    ) -> dict[str, dict[str, str | bool]]:
        attributes: dict[str, dict[str, str | bool]] = {}
        for number, columns in self.attributes:
            parts = columns[1].split(maxsplit=2)
            if len(parts) < 2:
                raise CorpusError(self.path, number, "attribute without target.", "Write `A1<TAB>Name T1 value`.")
            name, reference = parts[:2]
            if reference in self.relations:
                target = reference if reference in relations else None
            else:
                target = resolve(number, reference)
            if target is not None:
                attributes.setdefault(target, {})[name] = parts[2].strip() if len(parts) > 2 else True
        return attributes

    def _add_concepts(self, entities: dict[str, Entity], resolve: Callable[[int, str], str | None]) -> None:
        for number, columns in self.normalisations:
            parts = columns[1].split(maxsplit=2)
            if len(parts) != 3:
                raise CorpusError(self.path, number, "not a normalisation.", "Write `N1<TAB>Reference T1 Base:id`.")
            target = resolve(number, parts[1])
            if target is not None:
                old = entities[target]
                concept = parts[2].strip().removeprefix(PLAIN_CONCEPT)
                entities[target] = replace(old, concepts=tuple(dict.fromkeys((*old.concepts, concept))))

    def _equivalents(self, resolve: Callable[[int, str], str | None]) -> list[list[Any]]:
        groups: list[list[Any]] = []
        for number, columns in self.equivalences:
            kind, *references = columns[1].split()
            members = [m for m in (resolve(number, reference) for reference in references) if m is not None]
            groups.append([kind, members])
        return groups


_BOUND = re.compile(r"^(\S+)\s+([0-9]{1,12}\s+[0-9]{1,12}(?:\s*;\s*[0-9]{1,12}\s+[0-9]{1,12})*)$")


def _parse_bound(path: Path, number: int, columns: list[str]) -> tuple[str, list[Span]]:
    match = _BOUND.match(columns[1].strip())
    if match is None:
        raise CorpusError(path, number, "not a text bound.", "Write `T1<TAB>Type start end<TAB>text`.")
    pairs = (fragment.split() for fragment in match[2].split(";"))
    return match[1], [(int(start), int(end)) for start, end in pairs]


def _arguments(path: Path, number: int, text: str) -> list[tuple[str, str]]:
    arguments = []
    for part in text.split():
        role, colon, reference = part.rpartition(":")
        if not (role and colon and reference):
            raise CorpusError(path, number, "an argument is not `Role:Id`.", "Separate arguments by spaces.")
        arguments.append((role, reference))
    return arguments


def _argument_order(argument: tuple[str, str]) -> int:
    """Arg1 before Arg2 however they are written; other roles stay in file order."""
    return {"Arg1": 0, "Arg2": 1}.get(argument[0], 0)


def _refined(kind: str, attributes: dict[str, str | bool]) -> str:
    parts = [name if value is True else str(value) for name, value in sorted(attributes.items())]
    return f"{kind}={'+'.join(parts)}"


def _note(columns: list[str]) -> dict[str, str]:
    kind, _, target = columns[1].strip().partition(" ")
    return {"type": kind, "target": target.strip(), "text": "\t".join(columns[2:])}
