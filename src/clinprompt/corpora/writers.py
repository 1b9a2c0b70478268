"""Records to files: BRAT, CoNLL, BioC and JSON Lines; what `clinprompt predict` writes.

A format that cannot hold something says so: the functions return how many mentions and relations they left out.
Files appear whole or not at all.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from bioc import (
    BioCAnnotation,
    BioCCollection,
    BioCDocument,
    BioCLocation,
    BioCNode,
    BioCPassage,
    BioCRelation,
    biocjson,
    biocxml,
)

from clinprompt.corpora.brat import PLAIN_CONCEPT
from clinprompt.corpora.jsonl import dump_lines
from clinprompt.corpora.source import safe_file_name
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation, Span

logger = logging.getLogger(__name__)


def write_jsonl(records: Iterable[Record], path: Path) -> None:
    """All fields of all records, one object a line; `jsonl.read_records` gives them back unchanged."""
    write_text(Path(path), dump_lines(records))


# -- BRAT --------------------------------------------------------------------------------------------------------------


def write_brat(records: Iterable[Record], folder: Path) -> int:
    """One .txt/.ann pair per record, named by its id (characters unsafe in file names become underscores).

    Mentions are numbered anew (T1, T2, …), and split at line breaks as BRAT requires; white space in types becomes an
    underscore. A relation between concepts is written between the first mention of each. Attributes from
    `meta["attributes"]` are written for mentions. Returns how many relations were left out because an argument is no
    mention. Raises CorpusError if two records give one file name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    used: dict[str, str] = {}
    left_out = 0
    for record in records:
        name = safe_file_name(record.id)
        if name.lower() in used:
            raise CorpusError(folder / name, None, f"records {used[name.lower()]!r} and {record.id!r} share this name.")
        used[name.lower()] = record.id
        annotations, skipped = brat_annotations(record)
        left_out += skipped
        write_text(folder / f"{name}.txt", record.text)
        write_text(folder / f"{name}.ann", annotations)
    _report(folder, left_out, "relations between what is not mentioned")
    return left_out


def brat_annotations(record: Record) -> tuple[str, int]:
    """The .ann file of a record, and the number of relations left out."""
    numbers = {entity.id: f"T{n}" for n, entity in enumerate(record.entities, start=1)}
    lines = []
    for entity in record.entities:
        spans = [piece for span in entity.spans for piece in _without_line_breaks(record.text, span)]
        places = ";".join(f"{start} {end}" for start, end in spans)
        surface = " ".join(record.text[start:end] for start, end in spans)
        lines.append(f"{numbers[entity.id]}\t{_one_word(entity.type)} {places}\t{_one_line(surface)}")
    written, left_out = _between_mentions(record)
    for n, (relation, head, tail) in enumerate(written, start=1):
        lines.append(f"R{n}\t{_one_word(relation.type)} Arg1:{numbers[head.id]} Arg2:{numbers[tail.id]}")
    lines += [f"A{n}\t{line}" for n, line in enumerate(_attribute_lines(record, numbers), start=1)]
    lines += [f"N{n}\t{line}" for n, line in enumerate(_concept_lines(record, numbers), start=1)]
    return "".join(f"{line}\n" for line in lines), left_out


def _between_mentions(record: Record) -> tuple[list[tuple[Relation, Entity, Entity]], int]:
    written = []
    for relation in record.relations:
        heads, tails = record.mentions(relation.head), record.mentions(relation.tail)
        if heads and tails:
            written.append((relation, heads[0], tails[0]))
    return written, len(record.relations) - len(written)


def _attribute_lines(record: Record, numbers: dict[str, str]) -> Iterator[str]:
    for key, values in record.meta.get("attributes", {}).items():
        if key in numbers:
            for name, value in values.items():
                rest = "" if value is True else f" {_one_line(str(value))}"
                yield f"{_one_word(str(name))} {numbers[key]}{rest}"


def _concept_lines(record: Record, numbers: dict[str, str]) -> Iterator[str]:
    for entity in record.entities:
        for concept in entity.concepts:
            name = _one_line(concept if ":" in concept else PLAIN_CONCEPT + concept)
            yield f"Reference {numbers[entity.id]} {name}\t{_one_line(entity.text_in(record.text))}"


def _without_line_breaks(text: str, span: Span) -> list[Span]:
    pieces = re.finditer(r"[^\r\n]+", text[span[0] : span[1]])
    found = [(span[0] + piece.start(), span[0] + piece.end()) for piece in pieces]
    return found or [span]


def _one_word(text: str) -> str:
    return "_".join(text.split()) or "_"


def _one_line(text: str) -> str:
    return re.sub(r"[\t\r\n]", " ", text)


# -- CoNLL -------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\w+|[^\w\s]")
CONLL_COLUMNS = ("token", "start", "end", "tag")


def write_conll(records: Iterable[Record], path: Path) -> int:
    """Token, start, end and IOB2 tag, separated by tabs; `start` and `end` are offsets in the record's text.

    Each record begins with ``-DOCSTART-<TAB>id<TAB>-X-<TAB>O``; each line of its text is a sentence, unless a mention
    crosses the line end. A token is a run of letters and digits or one other character, cut where a mention begins or
    ends. Columns hold one tag per token: of overlapping mentions the longest is kept, discontinuous ones are left out.
    Returns how many were left out.
    """
    parts, left_out = [], 0
    for record in records:
        text, skipped = conll_rows(record)
        parts.append(text)
        left_out += skipped
    write_text(Path(path), "".join(parts))
    _report(Path(path), left_out, "overlapping or discontinuous mentions")
    return left_out


def conll_rows(record: Record) -> tuple[str, int]:
    """The rows of one record, and the number of mentions left out."""
    kept = _non_overlapping(record.entities)
    cuts = {offset for entity in kept for offset in entity.spans[0]}
    tokens = list(_tokens(record.text, cuts))
    tags = _tags(tokens, kept)
    rows = [f"-DOCSTART-\t{_one_line(record.id)}\t-X-\tO", ""]
    previous = 0
    for start, end in tokens:
        tag = tags.get(start, "O")
        if "\n" in record.text[previous:start] and rows[-1] and not tag.startswith("I-"):
            rows.append("")
        rows.append(f"{record.text[start:end]}\t{start}\t{end}\t{tag}")
        previous = end
    written = sum(tag.startswith("B-") for tag in tags.values())
    return "\n".join(rows).rstrip("\n") + "\n\n", len(record.entities) - written


def _non_overlapping(entities: Sequence[Entity]) -> list[Entity]:
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (e.start - e.end, e.start)):
        if len(entity.spans) == 1 and all(entity.end <= other.start or other.end <= entity.start for other in kept):
            kept.append(entity)
    return sorted(kept, key=lambda e: e.start)


def _tokens(text: str, cuts: set[int]) -> Iterator[Span]:
    for match in _TOKEN.finditer(text):
        edges = [match.start(), *(o for o in range(match.start() + 1, match.end()) if o in cuts), match.end()]
        yield from pairwise(edges)


def _tags(tokens: Sequence[Span], entities: Sequence[Entity]) -> dict[int, str]:
    """Token start → tag, for the tokens inside a mention."""
    tags: dict[int, str] = {}
    for entity in entities:
        inside = [start for start, _ in tokens if entity.start <= start < entity.end]
        for index, start in enumerate(inside):
            tags[start] = f"{'B' if index == 0 else 'I'}-{_one_line(entity.type)}"
    return tags


# -- BioC --------------------------------------------------------------------------------------------------------------

_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def write_bioc(records: Iterable[Record], path: Path, *, source: str = "clinprompt") -> int:
    """A BioC collection: JSON if the name ends in .json, else XML; one passage per record, offsets of the record.

    Concepts are in the infon `identifier` (several separated by `;`), relations between mentions are nodes `head` and
    `tail`, those between concepts infons `entity1` and `entity2`; label, answer and summary are document infons. XML
    cannot hold control characters (form feeds, for one): each becomes one space, so that offsets hold. Returns how
    many characters that changed.
    """
    path = Path(path)
    as_json = path.suffix.lower() == ".json"
    collection = BioCCollection()
    collection.source, collection.date, collection.key = source, "", ""
    collection.encoding, collection.version, collection.standalone = "utf-8", "1.0", True
    changed = 0
    for record in records:
        text, count = (record.text, 0) if as_json else _NOT_XML.subn(" ", record.text)
        changed += count
        collection.add_document(_bioc_document(record, text))
    write_text(path, biocjson.dumps(collection, ensure_ascii=False) if as_json else biocxml.dumps(collection))
    if changed:
        logger.warning("%s: %d control characters, which XML cannot hold, became spaces", path.name, changed)
    return changed


def _bioc_document(record: Record, text: str) -> BioCDocument:
    document = BioCDocument()
    document.id = record.id
    for key in ("label", "answer", "summary"):
        if (value := getattr(record, key)) is not None:
            document.infons[key] = _NOT_XML.sub(" ", value)
    passage = BioCPassage()
    passage.offset, passage.text = 0, text
    document.add_passage(passage)
    for entity in record.entities:
        passage.add_annotation(_bioc_annotation(entity, text))
    known = {entity.id for entity in record.entities}
    for number, relation in enumerate(record.relations, start=1):
        passage.add_relation(_bioc_relation(relation, number, known))
    return document


def _bioc_annotation(entity: Entity, text: str) -> BioCAnnotation:
    annotation = BioCAnnotation()
    annotation.id, annotation.text = entity.id, entity.text_in(text)
    annotation.infons["type"] = entity.type
    if entity.concepts:
        annotation.infons["identifier"] = ";".join(entity.concepts)
    for start, end in entity.spans:
        annotation.add_location(BioCLocation(start, end - start))
    return annotation


def _bioc_relation(relation: Relation, number: int, known: set[str]) -> BioCRelation:
    written = BioCRelation()
    written.id = relation.id or f"R{number}"
    written.infons["type"] = relation.type
    if relation.head in known and relation.tail in known:
        written.add_node(BioCNode(relation.head, "head"))
        written.add_node(BioCNode(relation.tail, "tail"))
    else:
        written.infons |= {"entity1": relation.head, "entity2": relation.tail}
    return written


# -- files -------------------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 to a file beside it, then rename: a reader never sees half a file. Line ends stay as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        unfinished.replace(path)
    except UnicodeEncodeError:
        cure = "Write JSON Lines instead, which escapes them."
        raise CorpusError(path, None, "the text holds unpaired surrogates, which UTF-8 cannot.", cure) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _report(path: Path, count: int, what: str) -> None:
    if count:
        logger.warning("%s: left out %d %s, which this format cannot hold", path.name, count, what)
