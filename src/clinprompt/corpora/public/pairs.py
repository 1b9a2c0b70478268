"""Public relation corpora that define their candidate pairs: `Record.meta["pairs"]` holds (head id, tail id)."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lxml import etree

from clinprompt.corpora.splits import Splits, carve_validation, text_group
from clinprompt.corpora.tabular import read_tabular
from clinprompt.corpora.xml_source import line_of, parse_xml
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation, Span

_CHEMPROT_MARKS = re.compile(r"<< (?P<head>.*?) >>|\[\[ (?P<tail>.*?) \]\]")


def chemprot(folder: Path) -> Splits:
    """One marked pair per record; the markers are taken out and offsets refer to the text without them."""
    names = {"train": "train.txt", "validation": "dev.txt", "test": "test.txt"}
    return {split: _chemprot_file(folder / name) for split, name in names.items()}


def _chemprot_file(path: Path) -> list[Record]:
    rows = read_tabular(path, {"text": "text", "label": "label"}, format="jsonl")
    return [_chemprot_record(path, number, row) for number, row in enumerate(rows, start=1)]


def _chemprot_record(path: Path, line: int, row: Record) -> Record:
    text, spans = unmark(row.text)
    if set(spans) != {"head", "tail"} or row.label is None:
        raise CorpusError(path, line, "not one << head >> and one [[ tail ]].", "The file is not the pinned one.")
    entities = (Entity("T1", "Entity", (spans["head"],)), Entity("T2", "Entity", (spans["tail"],)))
    return Record(
        row.id,
        text,
        entities=entities,
        relations=(Relation(row.label, "T1", "T2", "R1"),),
        group=text_group(text),
        meta={"pairs": (("T1", "T2"),)},
    )


def unmark(marked: str) -> tuple[str, dict[str, Span]]:
    """The text without ``<< >>`` and ``[[ ]]``, and where the first of each stood ("head", "tail").

    A later ``>>`` or ``[[`` is part of the text: it occurs in rank orders of potency.
    """
    pieces: list[str] = []
    spans: dict[str, Span] = {}
    position = length = 0
    for match in _CHEMPROT_MARKS.finditer(marked):
        role = str(match.lastgroup)
        if role in spans:
            continue
        before = marked[position : match.start()]
        content = match.group(role)
        start = length + len(before)
        spans[role] = (start, start + len(content))
        pieces += [before, content]
        length, position = start + len(content), match.end()
    pieces.append(marked[position:])
    return "".join(pieces), spans


def gad(folder: Path) -> Splits:
    """Sentences with ``@GENE$`` and ``@DISEASE$`` in place of the names, which are then the two mentions."""
    train = read_tabular(folder / "1" / "train.tsv", {"text": "0", "label": "1"}, header=False)
    test = read_tabular(folder / "1" / "test.tsv", {"text": "sentence", "label": "label"})
    return carve_validation(
        [_gad_record(folder / "1" / "train.tsv", n, row) for n, row in enumerate(train, start=1)],
        [_gad_record(folder / "1" / "test.tsv", n, row) for n, row in enumerate(test, start=2)],
    )


def _gad_record(path: Path, line: int, row: Record) -> Record:
    entities = []
    for identifier, mask in (("T1", "@GENE$"), ("T2", "@DISEASE$")):
        start = row.text.find(mask)
        if start < 0:
            raise CorpusError(path, line, f"no {mask}.", "The file is not the one the catalog pins.")
        entities.append(Entity(identifier, mask.strip("@$"), ((start, start + len(mask)),)))
    relations = (Relation("association", "T1", "T2", "R1"),) if row.label == "1" else ()
    return Record(
        row.id,
        row.text,
        entities=tuple(entities),
        relations=relations,
        group=text_group(row.text),
        meta={"pairs": (("T1", "T2"),)},
    )


# --- DDI 2013 ---------------------------------------------------------------------------------------------------------

_DDI_TRAIN, _DDI_TEST = "DDICorpus/Train/", "DDICorpus/Test/Test for DDI Extraction task/"


def ddi2013(folder: Path) -> Splits:
    """Sentences that have candidate pairs, from the archive; one document is one group."""
    path = folder / "DDICorpus-2013.zip"
    return carve_validation(_ddi_part(path, _DDI_TRAIN), list(_ddi_part(path, _DDI_TEST)))


def _ddi_part(path: Path, prefix: str) -> Iterator[Record]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.startswith(prefix) and name.endswith(".xml"):
                    where = path / name
                    for sentence in parse_xml(where, archive.read(name)).iter("sentence"):
                        record = _ddi_sentence(where, sentence)
                        if record.meta["pairs"]:
                            yield record
    except zipfile.BadZipFile:
        raise CorpusError(path, None, "not a zip archive.", "Download it again.") from None


def _ddi_sentence(path: Path, sentence: etree._Element) -> Record:
    text = sentence.get("text", "")
    identifier = sentence.get("id", "")
    entities = tuple(_ddi_entity(path, text, element) for element in sentence.iter("entity"))
    pairs, relations = [], []
    for element in sentence.iter("pair"):
        head, tail = (_short(element.get(key, "")) for key in ("e1", "e2"))
        pairs.append((head, tail))
        if element.get("ddi") == "true":
            # One pair of the training set is positive without a type: an interaction stated and no more.
            relations.append(Relation(element.get("type") or "int", head, tail, _short(element.get("id", ""))))
    return Record(
        identifier,
        text,
        entities=entities,
        relations=tuple(relations),
        group=identifier.rpartition(".")[0],
        meta={"pairs": tuple(pairs)},
    )


def _ddi_entity(path: Path, text: str, element: etree._Element) -> Entity:
    """Published offsets include the last character; one mention's are one too small, which its name shows."""
    try:
        bounds = [part.split("-") for part in element.get("charOffset", "").split(";")]
        spans = [(int(first), int(last) + 1) for first, last in bounds]
        entity = Entity(_short(element.get("id", "")), element.get("type", ""), tuple(spans))
    except ValueError:
        raise CorpusError(path, line_of(element), "not an offset.", "The file is not the pinned one.") from None
    moved = replace(entity, spans=tuple((start + 1, end + 1) for start, end in spans))
    name = element.get("text", "")
    return next((e for e in (entity, moved) if _squeezed(e.text_in(text)) == _squeezed(name)), entity)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _short(identifier: str) -> str:
    """``DDI-DrugBank.d1.s0.e2`` → ``e2``: unique within the sentence."""
    return identifier.rpartition(".")[2]
