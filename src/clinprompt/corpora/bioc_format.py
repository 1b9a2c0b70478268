"""BioC XML and JSON: documents made of passages with offsets, annotations with locations, relations between them.

The `bioc` package writes this format for us (see `writers`); it is not used to read, because it expands entities, has
no line numbers, and fails with bare KeyErrors on files that leave out optional parts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lxml import etree

from clinprompt.corpora.pubtator import split_concepts
from clinprompt.corpora.source import SurfaceMismatchError, checked_entity, numbered_lines, read_text
from clinprompt.corpora.xml_source import line_of, parse_xml
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation, Span

logger = logging.getLogger(__name__)

CONCEPT_KEYS = ("identifier", "mesh", "ncbi gene", "ncbi homologene", "omim", "cui", "umls", "concept_id", "accession")
_CONCEPT_ARGUMENTS = ("entity1", "entity2")  # BioRED relates concepts, and names them in infons
_LARGEST_GAP = 100_000  # characters between passages; a larger one is a damaged offset, not a gap


@dataclass(frozen=True, slots=True)
class _Piece:
    """A passage or sentence; `filler` is what a gap before it is filled with."""

    line: int | None
    offset: int
    text: str
    filler: str


@dataclass(slots=True)
class _Annotation:
    line: int | None
    id: str
    infons: dict[str, str]
    locations: list[Span]
    text: str | None


@dataclass(slots=True)
class _Link:
    line: int | None
    id: str
    infons: dict[str, str]
    nodes: list[tuple[str, str]]  # (role, refid)


@dataclass(slots=True)
class _Document:
    line: int | None
    id: str
    infons: dict[str, str]
    pieces: list[_Piece] = field(default_factory=list)
    annotations: list[_Annotation] = field(default_factory=list)
    links: list[_Link] = field(default_factory=list)


def read_bioc(
    path: Path,
    *,
    type_key: str = "type",
    concept_keys: Sequence[str] = CONCEPT_KEYS,
    mismatch: Literal["error", "skip"] = "error",
    encoding: str = "utf-8",
) -> list[Record]:
    """One record per document of a BioC file: XML, JSON (a collection, a list or one document) or JSON Lines.

    The text is assembled so that document offsets hold: passages (or their sentences) at their offsets, gaps between
    passages filled with line feeds, between sentences with spaces. Several locations of an annotation make a
    discontinuous mention; its type is the infon `type_key`, its concepts those of `concept_keys` (compared without
    case). A relation goes from its first node to each other one (roles head/subject/Arg1 first, if named so); without
    nodes, from infon `entity1` to `entity2`. Document infons are in `meta["infons"]`, those of relations in
    `meta["relation_infons"]`. `mismatch` "skip" leaves out mentions whose offsets do not hold and counts them in the
    log. Raises CorpusError.
    """
    path = Path(path)
    text = read_text(path, encoding) if _is_json(path) else None
    documents = _from_xml(path) if text is None else _from_json(path, text)
    keys = {key.lower() for key in concept_keys}
    records: list[Record] = []
    seen: set[str] = set()
    skipped = 0
    for document in documents:
        if document.id in seen:
            raise CorpusError(path, document.line, f"document {document.id!r} appears twice.", "Rename one.")
        seen.add(document.id)
        record, left_out = _record(path, document, type_key, keys, mismatch)
        records.append(record)
        skipped += left_out
    if skipped:
        logger.warning("%s: left out %d mentions whose offsets do not hold", path.name, skipped)
    return records


def _is_json(path: Path) -> bool:
    return any(suffix.lower() in (".json", ".jsonl") for suffix in path.suffixes)


# -- XML ---------------------------------------------------------------------------------------------------------------


def _from_xml(path: Path) -> Iterator[_Document]:
    root = parse_xml(path)
    if root.tag != "collection":
        problem = f"the root element is <{root.tag}>, not <collection>."
        raise CorpusError(path, line_of(root), problem, "BioC files hold one <collection>.")
    for element in root.iterfind("document"):
        document = _Document(line_of(element), (element.findtext("id") or "").strip(), _infons(element))
        for passage in element.iterfind("passage"):
            sentences = passage.findall("sentence")
            parts = [passage] if passage.findtext("text") or not sentences else sentences
            document.pieces += [_piece(path, part, first=part is parts[0]) for part in parts]
        document.annotations = [_xml_annotation(path, a) for a in element.iter("annotation")]
        document.links = [_xml_link(r) for r in element.iter("relation")]
        yield document


def _infons(element: etree._Element) -> dict[str, str]:
    return {str(child.get("key")): child.text or "" for child in element.iterfind("infon")}


def _piece(path: Path, element: etree._Element, *, first: bool) -> _Piece:
    offset = _number(path, line_of(element), element.findtext("offset"), f"offset of a {element.tag}")
    return _Piece(line_of(element), offset, element.findtext("text") or "", "\n" if first else " ")


def _xml_annotation(path: Path, element: etree._Element) -> _Annotation:
    line = line_of(element)
    locations = [_span(path, line, place.get("offset"), place.get("length")) for place in element.iterfind("location")]
    return _Annotation(line, str(element.get("id") or ""), _infons(element), locations, element.findtext("text"))


def _xml_link(element: etree._Element) -> _Link:
    nodes = [(str(node.get("role") or ""), str(node.get("refid") or "")) for node in element.iterfind("node")]
    return _Link(line_of(element), str(element.get("id") or ""), _infons(element), nodes)


def _number(path: Path, line: int | None, value: Any, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise CorpusError(path, line, f"the {what} is missing or not a number.", "Every one needs it.") from None


def _span(path: Path, line: int | None, offset: Any, length: Any) -> Span:
    start = _number(path, line, offset, "offset of a location")
    return start, start + _number(path, line, length, "length of a location")


# -- JSON --------------------------------------------------------------------------------------------------------------


def _from_json(path: Path, text: str) -> Iterator[_Document]:
    for line, value in _json_values(path, text):
        for place, document in _json_documents(path, line, value):
            try:
                yield _json_document(path, line, document)
            except (KeyError, TypeError, AttributeError):
                problem = f"{place} is not a BioC document."
                cure = "It needs `id` and `passages`, each passage `offset` and `text`, each annotation `locations`."
                raise CorpusError(path, line, problem, cure) from None


def _json_values(path: Path, text: str) -> Iterator[tuple[int | None, Any]]:
    if path.suffix.lower() != ".jsonl":
        yield None, _load_json(path, 1, text)
        return
    for number, line in numbered_lines(text):
        if line.strip():
            yield number, _load_json(path, number, line)


def _load_json(path: Path, first_line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(path, first_line + error.lineno - 1, f"not JSON: {error.msg}.", "Repair the line.") from None
    except (RecursionError, ValueError):
        problem = "JSON nested too deeply, or a number of thousands of digits."
        raise CorpusError(path, first_line, problem, "This is no BioC file.") from None


def _json_documents(path: Path, line: int | None, value: Any) -> list[tuple[str, Any]]:
    """The documents in a collection, a list of documents or collections, one document, or a PubTator 3 export."""
    if isinstance(value, list):
        return [found for item in value for found in _json_documents(path, line, item)]
    if isinstance(value, dict) and "passages" in value:
        return [("the document", value)]
    for key in ("documents", "PubTator3"):
        if isinstance(value, dict) and isinstance(value.get(key), list):
            return [(f"{key}[{index}]", item) for index, item in enumerate(value[key])]
    raise CorpusError(path, line, "neither a BioC collection nor a document.", "It needs `documents` or `passages`.")


def _json_document(path: Path, line: int | None, value: dict[str, Any]) -> _Document:
    document = _Document(line, str(value["id"]), _strings(value.get("infons")))
    parts: list[dict[str, Any]] = [value]
    for passage in value["passages"]:
        sentences = passage.get("sentences") or []
        parts += [passage, *sentences]
        texts = [passage] if _optional_text(passage) or not sentences else sentences
        for piece in texts:
            offset = _number(path, line, piece["offset"], "offset of a passage")
            filler = "\n" if piece is texts[0] else " "
            document.pieces.append(_Piece(line, offset, _optional_text(piece) or "", filler))
    for part in parts:
        document.annotations += [_json_annotation(path, line, a) for a in part.get("annotations") or []]
        document.links += [_json_link(line, r) for r in part.get("relations") or []]
    return document


def _json_annotation(path: Path, line: int | None, value: dict[str, Any]) -> _Annotation:
    locations = [_span(path, line, place["offset"], place["length"]) for place in value["locations"]]
    return _Annotation(line, str(value.get("id", "")), _strings(value.get("infons")), locations, _optional_text(value))


def _json_link(line: int | None, value: dict[str, Any]) -> _Link:
    nodes = [(str(node.get("role") or ""), str(node["refid"])) for node in value.get("nodes") or []]
    return _Link(line, str(value.get("id", "")), _strings(value.get("infons")), nodes)


def _optional_text(value: dict[str, Any]) -> str | None:
    text = value.get("text")
    if text is not None and not isinstance(text, str):
        raise TypeError  # reported with its place in _from_json
    return text


def _strings(infons: Any) -> dict[str, str]:
    return {str(key): "" if value is None else str(value) for key, value in (infons or {}).items()}


# -- both --------------------------------------------------------------------------------------------------------------


def _record(
    path: Path, document: _Document, type_key: str, concept_keys: set[str], mismatch: str
) -> tuple[Record, int]:
    text = _assemble(path, document)
    entities: dict[str, Entity] = {}
    skipped: set[str] = set()
    arguments = {link.infons.get(key, "") for link in document.links for key in _CONCEPT_ARGUMENTS}
    for number, annotation in enumerate(document.annotations, start=1):
        name = annotation.id or f"T{number}"
        if name in entities or name in skipped:
            raise CorpusError(path, annotation.line, f"annotation {name!r} appears twice.", "Give it another id.")
        try:
            entities[name] = _entity(path, annotation, name, text, type_key, concept_keys, arguments)
        except SurfaceMismatchError:
            if mismatch == "error":
                raise
            skipped.add(name)
    relations, infons = _relations(path, document, type_key, entities, skipped)
    meta = {key: value for key, value in (("infons", document.infons), ("relation_infons", infons)) if value}
    record = Record(document.id, text, entities=tuple(entities.values()), relations=tuple(relations), meta=meta)
    return record, len(skipped)


def _assemble(path: Path, document: _Document) -> str:
    text = ""
    for piece in sorted(document.pieces, key=lambda p: p.offset):
        gap = piece.offset - len(text)
        if gap < 0 and piece.text:
            problem = f"a passage at offset {piece.offset} overlaps the one before it, which ends at {len(text)}."
            raise CorpusError(path, piece.line, problem, "Offsets count characters; export the file again.")
        if gap > _LARGEST_GAP:
            problem = f"a passage at offset {piece.offset} leaves a gap of {gap} characters."
            raise CorpusError(path, piece.line, problem, "Offsets count from the start of the document.")
        text += piece.filler * gap + piece.text
    return text


def _entity(
    path: Path,
    annotation: _Annotation,
    name: str,
    text: str,
    type_key: str,
    concept_keys: set[str],
    arguments: set[str],
) -> Entity:
    kind = annotation.infons.get(type_key)
    if not kind:
        known = ", ".join(sorted(annotation.infons)) or "none"
        problem = f"annotation {name!r} has no infon {type_key!r} (it has: {known})."
        raise CorpusError(path, annotation.line, problem, "Set `type_key` to the infon that holds the type.")
    identifiers = [value.strip() for key, value in annotation.infons.items() if key.lower() in concept_keys]
    concepts = [concept for identifier in identifiers for concept in split_concepts(identifier)]
    concepts += [identifier for identifier in identifiers if identifier in arguments]
    return checked_entity(
        path,
        annotation.line,
        text,
        id=name,
        type=kind,
        spans=annotation.locations,
        quoted=annotation.text,
        concepts=tuple(dict.fromkeys(concepts)),
    )


def _relations(
    path: Path, document: _Document, type_key: str, entities: dict[str, Entity], skipped: set[str]
) -> tuple[list[Relation], dict[str, dict[str, str]]]:
    relations: list[Relation] = []
    infons: dict[str, dict[str, str]] = {}
    for number, link in enumerate(document.links, start=1):
        name = link.id or f"R{number}"
        kind = link.infons.get(type_key) or link.infons.get("relation type") or ""
        arguments = [reference for _, reference in sorted(link.nodes, key=_node_order)]
        if not link.nodes:
            arguments = [link.infons[key] for key in _CONCEPT_ARGUMENTS if link.infons.get(key)]
        if len(arguments) < 2 or not kind:
            problem = f"relation {name!r} needs a type (infon {type_key!r}) and two nodes."
            raise CorpusError(path, link.line, problem, "Add them, or remove the relation.")
        unknown = [a for _, a in link.nodes if a not in entities and a not in skipped]
        if unknown:
            problem = f"relation {name!r} refers to {unknown[0]!r}, which is not an annotation of its document."
            raise CorpusError(path, link.line, problem, "Correct the refid.")
        if skipped.isdisjoint(arguments):
            tails = arguments[1:]
            names = [name] if len(tails) == 1 else [f"{name}.{index}" for index in range(1, len(tails) + 1)]
            relations += [Relation(kind, arguments[0], tail, own) for own, tail in zip(names, tails, strict=True)]
            rest = {key: v for key, v in link.infons.items() if key not in (type_key, *_CONCEPT_ARGUMENTS)}
            if rest:
                infons[name] = rest
    return relations, infons


def _node_order(node: tuple[str, str]) -> int:
    return 0 if node[0].lower() in ("head", "subject", "arg1", "source", "trigger", "theme1") else 1
