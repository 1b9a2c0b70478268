"""The readers on public corpora as published: counts, and two formats of one corpus against each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clinprompt.corpora.bioc_format import read_bioc
from clinprompt.corpora.brat import read_brat
from clinprompt.corpora.conll import read_conll
from clinprompt.corpora.pubtator import read_pubtator
from clinprompt.corpora.tabular import read_tabular
from clinprompt.corpora.writers import write_bioc, write_brat, write_conll
from clinprompt.records import Record

pytestmark = pytest.mark.data


def folder(data_dir: Path, name: str) -> Path:
    if not (data_dir / name).is_dir():
        pytest.skip(f"{name} is not in the corpora folder")
    return data_dir / name


def mentions(records: list[Record]) -> int:
    return sum(len(record.entities) for record in records)


def relations(records: list[Record]) -> int:
    return sum(len(record.relations) for record in records)


def test_maccrobat(data_dir: Path, tmp_path: Path) -> None:
    records = read_brat(folder(data_dir, "maccrobat-ner"))
    assert (len(records), mentions(records), relations(records)) == (200, 25_189, 16_307)
    assert sum(len(e.spans) > 1 for r in records for e in r.entities) == 44
    assert len({e.type for r in records for e in r.entities}) == 41
    assert len({relation.type for r in records for relation in r.relations}) == 7
    # Ours written and read again: the same structure, numbered anew.
    assert write_brat(records, tmp_path / "out") == 0
    for old, new in zip(records, read_brat(tmp_path / "out"), strict=True):
        assert (old.id, old.text) == (new.id, new.text)
        assert [(e.type, e.spans) for e in old.entities] == [(e.type, e.spans) for e in new.entities]
        for before, after in zip(old.relations, new.relations, strict=True):
            assert old.entity(before.head).spans == new.entity(after.head).spans
            assert old.entity(before.tail).spans == new.entity(after.tail).spans


def test_bc5cdr_columns_and_pubtator_agree(data_dir: Path) -> None:
    columns = read_conll(folder(data_dir, "bc5cdr") / "test.tsv")
    abstracts = read_pubtator(folder(data_dir, "cdr-cid") / "CDR_TestSet.PubTator.txt.gz")
    assert (len(columns), len(abstracts)) == (4797, 500)
    assert mentions(columns) == mentions(abstracts) == 9809
    assert Counter(e.type for r in columns for e in r.entities) == Counter(
        e.type for r in abstracts for e in r.entities
    )


@pytest.mark.parametrize(("name", "count"), [("Training", 1038), ("Development", 1012), ("Test", 1066)])
def test_cdr_relations(data_dir: Path, name: str, count: int) -> None:
    records = read_pubtator(folder(data_dir, "cdr-cid") / f"CDR_{name}Set.PubTator.txt.gz")
    assert (len(records), relations(records)) == (500, count)
    assert all(r.mentions(x.head) and r.mentions(x.tail) for r in records for x in r.relations)


def test_biored_pubtator_and_bioc_agree(data_dir: Path, tmp_path: Path) -> None:
    pubtator = read_pubtator(folder(data_dir, "biored") / "Dev.PubTator")
    bioc = {record.id: record for record in read_bioc(data_dir / "biored" / "Dev.BioC.XML")}
    assert len(pubtator) == len(bioc) == 100
    for record in pubtator:
        other = bioc[record.id]
        assert record.text == other.text
        assert [(e.type, e.spans, e.concepts) for e in record.entities] == [
            (e.type, e.spans, e.concepts) for e in other.entities
        ]
        assert Counter((r.type, frozenset((r.head, r.tail))) for r in record.relations) == Counter(
            (r.type, frozenset((r.head, r.tail))) for r in other.relations
        )
    write_bioc(pubtator, tmp_path / "again.xml")
    again = read_bioc(tmp_path / "again.xml")
    assert [(r.text, [e.spans for e in r.entities]) for r in again] == [
        (r.text, [e.spans for e in r.entities]) for r in pubtator
    ]


@pytest.mark.parametrize(("name", "count"), [("Train", 4178), ("Dev", 1162), ("Test", 1163)])
def test_biored_relations_resolve(data_dir: Path, name: str, count: int) -> None:
    records = read_pubtator(folder(data_dir, "biored") / f"{name}.PubTator")
    assert relations(records) == count
    assert all(r.mentions(x.head) and r.mentions(x.tail) for r in records for x in r.relations)


def test_psytar_round_trip_through_columns(data_dir: Path, tmp_path: Path) -> None:
    records = read_conll(folder(data_dir, "psytar") / "all" / "train.txt")
    assert mentions(records) == 3535
    assert {e.type for r in records for e in r.entities} == {"ADR", "DI", "SSI", "WD"}
    assert write_conll(records, tmp_path / "again.conll") == 0
    again = read_conll(tmp_path / "again.conll", unit="document")
    assert [(r.id, [e.type for e in r.entities]) for r in again] == [
        (r.id, [e.type for e in r.entities]) for r in records
    ]


def test_meqsum_spreadsheet(data_dir: Path) -> None:
    (path,) = folder(data_dir, "meqsum").glob("*.xlsx")
    records = read_tabular(path, {"id": "File", "text": "CHQ", "summary": "Summary"})
    assert len(records) == 1000 and all(r.text and r.summary for r in records)
