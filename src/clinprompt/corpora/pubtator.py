"""PubTator: title and abstract, mentions with concept identifiers, relations between concepts.

Blocks of lines that share an identifier::

    123|t|Title
    123|a|Abstract
    123<TAB>0<TAB>5<TAB>Title<TAB>Type<TAB>D000001
    123<TAB>CID<TAB>D000001<TAB>D000002

Offsets count from the start of the title; the abstract begins one character after the title's end.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clinprompt.corpora.source import SurfaceMismatchError, checked_entity, numbered_lines, read_text, whole_number
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

logger = logging.getLogger(__name__)

_PASSAGE = re.compile(r"^([^|\t]+)\|([a-z])\|(.*)$")
_VARIANT = re.compile(r"^(?:tmVar:)?[cgmnpr]?\|")
_NO_CONCEPT = frozenset({"", "-", "-1", "None"})


@dataclass(slots=True)
class _Block:
    id: str
    line: int
    title: str | None = None
    abstract: str | None = None
    rows: list[tuple[int, list[str]]] = field(default_factory=list)

    def mention_rows(self) -> list[tuple[int, list[str]]]:
        return [row for row in self.rows if whole_number(row[1][1]) is not None]

    def relation_rows(self) -> list[tuple[int, list[str]]]:
        return [row for row in self.rows if whole_number(row[1][1]) is None]


def read_pubtator(path: Path, *, mismatch: Literal["error", "skip"] = "error", encoding: str = "utf-8") -> list[Record]:
    """One record per document; `path` is plain or ends in .gz.

    Title and abstract are joined by a line feed, which keeps the file's offsets. Several concepts of a mention (``|``,
    ``;`` or ``,``) are split; variant names such as ``p|SUB|V|600|E`` are one concept; -1 and - are none. Relation
    arguments are concept ids (`Record.mentions` gives the mentions). Kept in `meta`: `composites` (mention id →
    individual names, the seventh column of BC5CDR) and `novelty` (relation id → fifth column of BioRED).
    With `mismatch="skip"` mentions whose offsets do not select the quoted text are left out and counted in the log.
    Raises CorpusError with the line of anything else that does not fit.
    """
    path = Path(path)
    records, seen, skipped = [], set(), 0
    for block in _blocks(path, read_text(path, encoding)):
        if block.id in seen:
            raise CorpusError(path, block.line, f"document {block.id!r} appears twice.", "Remove or rename one.")
        seen.add(block.id)
        record, left_out = _record(path, block, mismatch)
        records.append(record)
        skipped += left_out
    if skipped:
        logger.warning("%s: left out %d mentions whose offsets do not select their text", path.name, skipped)
    return records


def split_concepts(identifier: str) -> tuple[str, ...]:
    """The concept ids in one identifier field, in order, without repeats."""
    if _VARIANT.match(identifier):
        return (identifier,)
    parts = (part.strip() for part in re.split(r"[|;,]", identifier))
    return tuple(dict.fromkeys(part for part in parts if part not in _NO_CONCEPT))


def _blocks(path: Path, text: str) -> Iterator[_Block]:
    block: _Block | None = None
    for number, line in numbered_lines(text):
        if not line.strip():
            continue
        passage = _PASSAGE.match(line)
        if passage is not None:
            block, finished = _add_passage(path, number, passage, block)
            if finished is not None:
                yield finished
            continue
        columns = line.split("\t")
        if len(columns) < 4:
            problem = "neither a passage (id|t|…), a mention (6 columns) nor a relation (4 columns)."
            raise CorpusError(path, number, problem, "Columns are separated by tabs.")
        if block is None or columns[0] != block.id:
            problem = "a row whose first column is not the id of the document it stands in."
            raise CorpusError(path, number, problem, "Rows follow their title and abstract.")
        block.rows.append((number, columns))
    if block is not None:
        yield block


def _add_passage(path: Path, number: int, passage: re.Match[str], block: _Block | None) -> tuple[_Block, _Block | None]:
    """The block the passage belongs to, and the one it closes, if any."""
    identifier, kind, content = passage.groups()
    finished = None
    if block is None or identifier != block.id:
        finished, block = block, _Block(identifier, number)
    if kind == "t" and block.title is None:
        block.title = content
    elif kind == "a" and block.title is not None and block.abstract is None:
        block.abstract = content
    else:
        problem = f"passage |{kind}| where the title |t| and then the abstract |a| of a document are expected."
        raise CorpusError(path, number, problem, "Each document has one of each, title first.")
    return block, finished


def _record(path: Path, block: _Block, mismatch: str) -> tuple[Record, int]:
    text = (block.title or "") + (f"\n{block.abstract}" if block.abstract else "")
    entities: list[Entity] = []
    relations = [_relation(path, n, columns, i) for i, (n, columns) in enumerate(block.relation_rows(), start=1)]
    arguments = {argument for relation in relations for argument in (relation.head, relation.tail)}
    composites: dict[str, list[str]] = {}
    skipped = 0
    for number, columns in block.mention_rows():
        try:
            entity = _mention(path, number, text, columns, f"T{len(entities) + skipped + 1}", arguments)
        except SurfaceMismatchError:
            if mismatch == "error":
                raise
            skipped += 1
            continue
        entities.append(entity)
        if len(columns) > 6 and columns[6]:
            composites[entity.id] = columns[6].split("|")
    rows = zip(relations, block.relation_rows(), strict=True)
    novelty = {relation.id: columns[4] for relation, (_, columns) in rows if len(columns) > 4}
    meta = {key: value for key, value in (("composites", composites), ("novelty", novelty)) if value}
    return Record(block.id, text, entities=tuple(entities), relations=tuple(relations), meta=meta), skipped


def _mention(path: Path, number: int, text: str, columns: list[str], entity_id: str, arguments: set[str]) -> Entity:
    start, end = (whole_number(column) for column in columns[1:3])
    if len(columns) < 5 or start is None or end is None:
        raise CorpusError(path, number, "a mention needs start, end, text and type.", "Separate columns by tabs.")
    identifier = columns[5].strip() if len(columns) > 5 else ""
    concepts = split_concepts(identifier)
    if identifier in arguments and identifier not in concepts:
        concepts = (*concepts, identifier)  # a relation names the composite as a whole (five do in BioRED)
    return checked_entity(
        path,
        number,
        text,
        id=entity_id,
        type=columns[4].strip(),
        spans=[(start, end)],
        quoted=columns[3],
        concepts=concepts,
    )


def _relation(path: Path, number: int, columns: list[str], index: int) -> Relation:
    kind, head, tail = (column.strip() for column in columns[1:4])
    if not (kind and head and tail):
        raise CorpusError(path, number, "a relation needs a type and two concept ids.", "Fill the empty column.")
    return Relation(kind, head, tail, f"R{index}")
