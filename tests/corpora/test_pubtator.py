"""PubTator: offsets over title and abstract, concepts in all their notations, relations between concepts."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from clinprompt.corpora.pubtator import read_pubtator, split_concepts
from clinprompt.errors import CorpusError
from clinprompt.records import Relation

DOCUMENT = """101|t|Aspirin rash.
101|a|Oral and nasal lesions after V600E.
101\t0\t7\tAspirin\tChemical\tD001241
101\t8\t12\trash\tDisease\tD005076|D003875
101\t14\t36\tOral and nasal lesions\tDisease\tD009059|D009668\toral lesions|nasal lesions
101\t43\t48\tV600E\tVariant\tp|SUB|V|600|E
101\tCID\tD001241\tD005076
101\tAssociation\tp|SUB|V|600|E\tD009059|D009668\tNovel

102|t|No mention
102|a|
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "corpus.pubtator"
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_documents(tmp_path: Path, newline: str) -> None:
    first, second = read_pubtator(write(tmp_path, DOCUMENT.replace("\n", newline)))
    assert first.text == "Aspirin rash.\nOral and nasal lesions after V600E."
    assert [(e.type, e.text_in(first.text), e.concepts) for e in first.entities] == [
        ("Chemical", "Aspirin", ("D001241",)),
        ("Disease", "rash", ("D005076", "D003875")),
        ("Disease", "Oral and nasal lesions", ("D009059", "D009668", "D009059|D009668")),
        ("Variant", "V600E", ("p|SUB|V|600|E",)),
    ]
    assert first.relations == (
        Relation("CID", "D001241", "D005076", "R1"),
        Relation("Association", "p|SUB|V|600|E", "D009059|D009668", "R2"),
    )
    assert [e.id for r in first.relations for e in first.mentions(r.tail)] == ["T2", "T3"]
    assert first.meta == {"composites": {"T3": ["oral lesions", "nasal lesions"]}, "novelty": {"R2": "Novel"}}
    assert (second.id, second.text, second.entities) == ("102", "No mention", ())


def test_gzip_and_documents_without_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf1|t|A\n1|a|B\n2|t|C\n2|a|D\n"))
    assert [(r.id, r.text) for r in read_pubtator(path)] == [("1", "A\nB"), ("2", "C\nD")]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorpusError, match="not a complete gzip file"):
        read_pubtator(path)


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("D1|D2", ("D1", "D2")),
        ("7040,7042", ("7040", "7042")),
        ("MESH:D1; OMIM:2;MESH:D1", ("MESH:D1", "OMIM:2")),
        ("-1", ()),
        ("-", ()),
        ("", ()),
        ("c|DEL|1314_1328|", ("c|DEL|1314_1328|",)),
        ("|INS|125_126|AA", ("|INS|125_126|AA",)),
    ],
)
def test_concepts(identifier: str, expected: tuple[str, ...]) -> None:
    assert split_concepts(identifier) == expected


HEAD = "1|t|Aspirin\n1|a|Rash.\n"


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (HEAD + "1\t0\t6\tAspirin\tChemical\tD1\n", 3, "does not select"),
        (HEAD + "1\t0\t70\tAspirin\tChemical\tD1\n", 3, "ends at 70"),
        (HEAD + "1\t0\tx\tAspirin\tChemical\tD1\n", 3, "a mention needs"),
        (HEAD + "1\t0\t7\tAspirin\n", 3, "a mention needs"),
        (HEAD + "1 0 7 Aspirin Chemical D1\n", 3, "neither a passage"),
        (HEAD + "2\t0\t7\tAspirin\tChemical\tD1\n", 3, "not the id of the document"),
        (HEAD + "1\tCID\tD1\t\n", 3, "two concept ids"),
        (HEAD + "\n" + HEAD.replace("1|", "2|") + "\n" + HEAD, 7, "appears twice"),
        ("1|a|Rash.\n", 1, "passage |a|"),
        (HEAD + "1|a|More.\n", 3, "passage |a|"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, content: str, line: int, problem: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_pubtator(write(tmp_path, content))
    assert problem in caught.value.problem and caught.value.line == line and caught.value.cure
    assert "Rash" not in str(caught.value)


def test_mismatch_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, HEAD + "1\t0\t6\tAspirin\tChemical\tD1\n1\t8\t12\tRash\tDisease\tD2\n")
    with caplog.at_level(logging.WARNING):
        (record,) = read_pubtator(path, mismatch="skip")
    assert [(e.id, e.type) for e in record.entities] == [("T2", "Disease")]
    assert "left out 1 mentions" in caplog.text
