"""i2b2 2012 (temporal relations) and 2014 (de-identification, heart disease risk): XML with TEXT and stand-off TAGS.

Both were written by annotation tools that put raw text into attributes, so that a few released files are not
well-formed (bare ``&``, ``<`` or quotation marks). Such attributes are escaped before parsing; TEXT is not touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lxml import etree

from clinprompt.corpora.source import SurfaceMismatchError, checked_entity, document_id, files_in, read_bytes
from clinprompt.corpora.xml_source import line_of, parse_xml
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

logger = logging.getLogger(__name__)

Mismatch = Literal["error", "skip"]

_CDATA = re.compile(rb"(<!\[CDATA\[.*?\]\]>)", re.DOTALL)
_ATTRIBUTE = re.compile(rb'(\s[\w:.-]+=")(.*?)("(?=\s+[\w:.-]+="|\s*/?>))')
_BARE_AMPERSAND = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[0-9a-fA-F]+);)")


def read_i2b2_2012(path: Path, *, section_times: bool = True, mismatch: Mismatch = "error") -> list[Record]:
    """EVENT and TIMEX3 as entities, TLINK as relations; one record per .xml file below `path` (or the one named).

    Entity types are the `type` attributes: PROBLEM, TEST, TREATMENT, OCCURRENCE, EVIDENTIAL, CLINICAL_DEPT; DATE,
    TIME, DURATION, FREQUENCY; and, with `section_times`, ADMISSION and DISCHARGE (SECTIME), which some TLINKs refer
    to (without, these links are left out). The other attributes (modality, polarity, val, mod) are in
    `meta["attributes"]`. Offsets count from 1; where a file's own quotations show that it counts from 0, from 0.
    `mismatch` "skip" leaves out mentions whose offsets do not hold and links without type, and counts them in the log.
    Raises CorpusError with file and line.
    """
    return [_read_2012(file, name, section_times, mismatch) for file, name in _files(Path(path))]


def read_i2b2_2014(
    path: Path,
    *,
    granularity: Literal["type", "category"] = "type",
    label: str | None = None,
    mismatch: Mismatch = "error",
) -> list[Record]:
    """De-identification and risk-factor files; one record per .xml file below `path` (or the one named).

    Tags with offsets (from 0) become entities: of type TYPE (PATIENT, DOCTOR, DATE, …) or, by `granularity`, of the
    category that the element names (NAME, DATE, …). Tags without offsets are about the document (DIABETES, SMOKER,
    MEDICATION with time and indicator): they are in `meta["tags"]` as {"tag", attributes…}; evidence nested in them
    becomes entities of the element's name. `label` ("SMOKER.status") makes one such attribute the record's label.
    `group` is the patient (110 of 110-01.xml). `mismatch` as in `read_brat`. Raises CorpusError with file and line.
    """
    if label is not None and not re.fullmatch(r"\w+\.\w+", label):
        raise CorpusError(path, None, "`label` is not `TAG.attribute`.", "For example: SMOKER.status.")
    return [_read_2014(file, name, granularity, label, mismatch) for file, name in _files(Path(path))]


def _files(path: Path) -> list[tuple[Path, str]]:
    if path.is_file():
        return [(path, path.stem)]
    found = files_in(path, ".xml")
    if not found:
        raise CorpusError(path, None, "no .xml files here.", "Name the folder that holds them.")
    return [(file, document_id(file, path)) for file in found]


def _text_and_tags(path: Path) -> tuple[str, etree._Element]:
    raw = read_bytes(path)
    try:
        root = parse_xml(path, raw)
    except CorpusError:
        repaired = _escape_attributes(raw)
        if repaired == raw:
            raise
        root = parse_xml(path, repaired)
        logger.info("%s: attributes with unescaped characters were escaped to read it", path.name)
    text, tags = root.find("TEXT"), root.find("TAGS")
    if text is None or tags is None:
        raise CorpusError(path, line_of(root), "needs the elements <TEXT> and <TAGS>.", "Use the release's XML files.")
    return "".join(str(part) for part in text.itertext()), tags


def _escape_attributes(raw: bytes) -> bytes:
    parts = _CDATA.split(raw)
    parts[::2] = [b"\n".join(_ATTRIBUTE.sub(_escape, line) for line in part.split(b"\n")) for part in parts[::2]]
    return b"".join(parts)


def _escape(match: re.Match[bytes]) -> bytes:
    value = _BARE_AMPERSAND.sub(b"&amp;", match[2]).replace(b"<", b"&lt;").replace(b'"', b"&quot;")
    return match[1] + value + match[3]


def _ground(
    path: Path, text: str, tags: Sequence[tuple[etree._Element, str]], bases: Sequence[int], mismatch: Mismatch
) -> dict[str, Entity]:
    """(element, type) → entities by id, counting offsets from the base under which most quotations hold."""
    attempts = []
    for base in bases:
        found: dict[str, Entity] = {}
        failures: list[SurfaceMismatchError] = []
        for tag, kind in tags:
            name = str(tag.get("id"))
            if name in found:
                raise CorpusError(path, line_of(tag), f"id {name!r} appears twice.", "Give each tag its own id.")
            try:
                found[name] = _entity(path, text, tag, name, kind, base)
            except SurfaceMismatchError as error:
                failures.append(error)
        if not failures:
            return found
        attempts.append((len(failures), found, failures))
    count, found, failures = min(attempts, key=lambda attempt: attempt[0])
    if mismatch == "error":
        raise failures[0]
    logger.warning("%s: left out %d mentions whose offsets do not hold", path.name, count)
    return found


def _entity(path: Path, text: str, tag: etree._Element, name: str, kind: str, base: int) -> Entity:
    start, end = (_number(path, tag, key) - base for key in ("start", "end"))
    if start < 0:
        raise SurfaceMismatchError(path, line_of(tag), f"mention {name!r} starts before the text.", "Correct it.")
    return checked_entity(path, line_of(tag), text, id=name, type=kind, spans=[(start, end)], quoted=tag.get("text"))


def _number(path: Path, tag: etree._Element, key: str) -> int:
    value = tag.get(key) or ""
    if not re.fullmatch(r"-?[0-9]{1,12}", value):
        problem = f"<{tag.tag}> has no numeric attribute `{key}`."
        raise CorpusError(path, line_of(tag), problem, "Every annotation needs start and end.")
    return int(value)


# -- 2012 --------------------------------------------------------------------------------------------------------------

_MENTION_KEYS = frozenset({"id", "start", "end", "text", "type"})


def _read_2012(path: Path, record_id: str, section_times: bool, mismatch: Mismatch) -> Record:
    text, tags = _text_and_tags(path)
    kinds = ("EVENT", "TIMEX3", "SECTIME") if section_times else ("EVENT", "TIMEX3")
    mentions = [(tag, _required(path, tag, "type")) for kind in kinds for tag in tags.iterfind(kind)]
    entities = _ground(path, text, mentions, (1, 0), mismatch)
    known = {str(tag.get("id")) for tag in tags if tag.tag != "TLINK"}
    attributes = {
        str(tag.get("id")): {str(key): str(value) for key, value in tag.attrib.items() if key not in _MENTION_KEYS}
        for tag, _ in mentions
        if str(tag.get("id")) in entities
    }
    relations = _links(path, tags, entities, known, mismatch)
    meta = {"attributes": {key: values for key, values in attributes.items() if values}}
    return Record(record_id, text, entities=tuple(entities.values()), relations=tuple(relations), meta=meta)


def _links(
    path: Path, tags: etree._Element, entities: dict[str, Entity], known: set[str], mismatch: Mismatch
) -> list[Relation]:
    relations: list[Relation] = []
    untyped = 0
    for link in tags.iterfind("TLINK"):
        head, tail = (_required(path, link, key) for key in ("fromID", "toID"))
        for argument in (head, tail):
            if argument not in known:
                problem = f"TLINK refers to {argument!r}, which this file does not annotate."
                raise CorpusError(path, line_of(link), problem, "Correct the id.")
        if not link.get("type") and mismatch == "skip":
            untyped += 1
        elif head in entities and tail in entities:
            name = str(link.get("id") or f"TL{len(relations)}")
            relations.append(Relation(_required(path, link, "type"), head, tail, name))
    if untyped:
        logger.warning("%s: left out %d links without type", path.name, untyped)
    return relations


def _required(path: Path, tag: etree._Element, key: str) -> str:
    value = tag.get(key)
    if not value:
        problem = f"<{tag.tag} id={tag.get('id')!r}> has no `{key}`."
        raise CorpusError(path, line_of(tag), problem, "Add it, or leave such tags out: `mismatch: skip`.")
    return str(value)


# -- 2014 --------------------------------------------------------------------------------------------------------------


def _read_2014(path: Path, record_id: str, granularity: str, label: str | None, mismatch: Mismatch) -> Record:
    text, tags = _text_and_tags(path)
    spanned: list[tuple[etree._Element, str]] = []
    document: list[dict[str, Any]] = []
    for number, tag in enumerate(tags.iterdescendants(etree.Element)):
        if (tag.get("start") or "-1") == "-1":  # how the tool writes a tag that no part of the text carries
            document.append({"tag": str(tag.tag)} | {str(key): str(value) for key, value in tag.attrib.items()})
            continue
        if not tag.get("id"):
            tag.set("id", f"P{number}")
        spanned.append((tag, _kind_2014(tag, granularity)))
    entities = _ground(path, text, spanned, (0,), mismatch)
    patient = re.fullmatch(r"(\d+)-\d+", path.stem)
    record = Record(
        record_id,
        text,
        entities=tuple(entities.values()),
        group=patient[1] if patient else "",
        meta={"tags": document} if document else {},
    )
    return record if label is None else replace(record, label=_document_label(document, label))


def _kind_2014(tag: etree._Element, granularity: str) -> str:
    return str(tag.get("TYPE") or tag.tag) if granularity == "type" else str(tag.tag)


def _document_label(tags: Sequence[dict[str, Any]], label: str) -> str | None:
    name, key = label.split(".")
    return next((str(tag[key]) for tag in tags if tag["tag"] == name and tag.get(key)), None)
