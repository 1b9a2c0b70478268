"""Public corpora of named entities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clinprompt.corpora.brat import read_brat
from clinprompt.corpora.conll import read_conll
from clinprompt.corpora.source import files_in
from clinprompt.corpora.splits import Splits, by_hash, carve_validation
from clinprompt.corpora.tabular import read_tabular
from clinprompt.corpora.xml_source import parse_xml
from clinprompt.errors import CorpusError
from clinprompt.records import Record


def ncbi_disease(folder: Path) -> Splits:
    """Official splits of the BioCreative-style CoNLL files, one sentence per record."""
    return _three_conll_files(folder, "train.tsv", "devel.tsv", "test.tsv")


bc5cdr = ncbi_disease
bc2gm = ncbi_disease


def psytar(folder: Path) -> Splits:
    """The splits of the preprocessing repository."""
    return _three_conll_files(folder / "all", "train.txt", "dev.txt", "test.txt")


def _three_conll_files(folder: Path, train: str, validation: str, test: str) -> Splits:
    names = {"train": train, "validation": validation, "test": test}
    return {split: read_conll(folder / name, delimiter="\t") for split, name in names.items()}


def neurotrialner(folder: Path) -> Splits:
    """Title and summary of a registered trial, offsets as published."""
    columns = {"id": "nctid", "group": "nctid", "text": "text", "entities": "entities"}
    names = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
    return {split: read_tabular(folder / "bigbio" / name, columns) for split, name in names.items()}


def maccrobat(folder: Path) -> Splits:
    """Whole case reports with their entities; no official split."""
    return by_hash(replace(record, group=record.id, relations=(), meta={}) for record in read_brat(folder))


_E3C_TAGS = {"ety": "Clinical_entity"}


def e3c(folder: Path) -> Splits:
    """Sentences of the English layer 1; the document of each is found again in the annotated originals."""
    sentences = folder / "preprocessed_data" / "clinical_entities" / "layer1" / "English"
    documents = _e3c_documents(folder / "data_annotation" / "English" / "layer1")
    train = _e3c_sentences(sentences / "train.txt", documents)
    test = _e3c_sentences(sentences / "test.txt", documents)
    return carve_validation(train, test)


def _e3c_sentences(path: Path, documents: dict[str, str]) -> list[Record]:
    records: list[Record] = []
    document = ""
    for record in read_conll(path, delimiter=" "):
        document = _document_of(record.text, documents, document)
        entities = tuple(replace(e, type=_E3C_TAGS.get(e.type, e.type)) for e in record.entities)
        records.append(replace(record, entities=entities, group=document))
    return records


def _document_of(sentence: str, documents: dict[str, str], previous: str) -> str:
    """The one document with this sentence; where several or none have it, the one of the sentence before."""
    letters = _letters(sentence)
    found = [name for name, text in documents.items() if letters in text]
    return found[0] if len(found) == 1 else previous


def _e3c_documents(folder: Path) -> dict[str, str]:
    """Document name → its text without white space, from the UIMA files."""
    documents = {}
    for path in files_in(folder, ".xml"):
        texts = [element.get("sofaString") for element in parse_xml(path).iter("{http:///uima/cas.ecore}Sofa")]
        if len(texts) != 1 or texts[0] is None:
            raise CorpusError(path, None, "has not exactly one document text.", "The file is not the pinned one.")
        documents[path.stem] = _letters(texts[0])
    return documents


def _letters(text: str) -> str:
    return "".join(text.split())
