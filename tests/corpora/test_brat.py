"""BRAT standoff: every line type, every way in which offsets and text disagree, and what refuses to be read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clinprompt.corpora.brat import read_brat
from clinprompt.errors import CorpusError
from clinprompt.records import Record, Relation

TEXT = "Aspirin 81 mg caused a mild rash.\nNo fever."


def write_pair(folder: Path, annotation: str, text: str = TEXT, name: str = "note") -> Path:
    (folder / f"{name}.txt").write_bytes(text.encode())
    (folder / f"{name}.ann").write_bytes(annotation.encode())
    return folder


def read_one(folder: Path, annotation: str, text: str = TEXT, **options: object) -> Record:
    records = read_brat(write_pair(folder, annotation, text), **options)  # type: ignore[arg-type]
    assert len(records) == 1
    return records[0]


def failure(folder: Path, annotation: str, text: str = TEXT, **options: object) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        read_one(folder, annotation, text, **options)
    assert caught.value.problem and "Aspirin" not in str(caught.value) and "rash" not in str(caught.value)
    return caught.value


def test_all_line_types(tmp_path: Path) -> None:
    record = read_one(
        tmp_path,
        "T1\tDrug 0 7\tAspirin\n"
        "T2\tStrength 8 13\t81 mg\n"
        "T3\tADE 28 32\trash\n"
        "T4\tSeverity 23 27\tmild\n"
        "T5\tADE 37 42\tfever\n"
        "R1\tStrength-Drug Arg1:T2 Arg2:T1\t\n"
        "E1\tADE:T3 Cause:T1 Degree2:T4\n"
        "E2\tADE:T5\n"
        "R2\tSAME Arg2:E2 Arg1:E1\n"
        "A1\tNegated E2\n"
        "A2\tCertainty T3 likely\n"
        "M1\tStrong R1\n"
        "N1\tReference T1 RxNorm:1191\tAspirin\n"
        "*\tEquiv T3 E2\n"
        "#1\tAnnotatorNotes T1\tsee guideline\t3\n",
    )
    assert [(e.id, e.type, e.text_in(record.text)) for e in record.entities] == [
        ("T1", "Drug", "Aspirin"),
        ("T2", "Strength", "81 mg"),
        ("T3", "ADE", "rash"),
        ("T4", "Severity", "mild"),
        ("T5", "ADE", "fever"),
    ]
    assert record.entity("T1").concepts == ("RxNorm:1191",)
    assert record.relations == (
        Relation("Strength-Drug", "T2", "T1", "R1"),
        Relation("SAME", "T3", "T5", "R2"),  # Arg1 first however written; events stand for their triggers
        Relation("Cause", "T3", "T1", "E1.1"),
        Relation("Degree", "T3", "T4", "E1.2"),  # BRAT numbers repeated roles
    )
    assert record.meta["attributes"] == {"T5": {"Negated": True}, "T3": {"Certainty": "likely"}, "R1": {"Strong": True}}
    assert record.meta["equivalents"] == [["Equiv", ["T3", "T5"]]]
    assert record.meta["events"] == {"E1": "T3", "E2": "T5"}
    assert record.meta["notes"] == [{"type": "AnnotatorNotes", "target": "T1", "text": "see guideline\t3"}]


def test_attributes_refine_types_on_request(tmp_path: Path) -> None:
    annotation = "T1\tADE 28 32\trash\nT2\tADE 37 42\tfever\nA1\tNegated T2\nA2\tStatus T1 past\nA3\tDoubt T1\n"
    record = read_one(tmp_path, annotation, attributes=True)
    assert [e.type for e in record.entities] == ["ADE=Doubt+past", "ADE=Negated"]


def test_discontinuous_and_broken_lines(tmp_path: Path) -> None:
    annotation = "T1\tX 0 7;23 32\tAspirin mild rash\nT2\tY 28 33;34 36\trash. No\n"
    kept = read_one(tmp_path, annotation)
    assert [e.spans for e in kept.entities] == [((0, 7), (23, 32)), ((28, 33), (34, 36))]
    joined = read_one(tmp_path, annotation, join_line_breaks=True)
    assert [e.spans for e in joined.entities] == [((0, 7), (23, 32)), ((28, 36),)]


def test_fragments_in_any_order_are_sorted(tmp_path: Path) -> None:
    assert read_one(tmp_path, "T1\tX 23 32;0 7\tAspirin mild rash\n").entities[0].spans == ((0, 7), (23, 32))


def test_quotation_may_fold_line_breaks(tmp_path: Path) -> None:
    record = read_one(tmp_path, "T1\tX 28 42\trash. No fever\n")
    assert record.entities[0].text_in(record.text) == "rash.\nNo fever"


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("\ufeffone\r\ntwo", 5, "one\r\ntwo"),  # carriage return counted, byte order mark not
        ("\ufeffone\r\ntwo", 6, "\ufeffone\r\ntwo"),  # both counted
        ("one\r\ntwo", 4, "one\ntwo"),  # carriage return not counted
        ("\ufeffone\r\ntwo", 4, "one\ntwo"),
        ("naïve \U0001f642 two", 8, "naïve \U0001f642 two"),  # characters, not bytes or UTF-16 units
    ],
)
def test_text_is_the_one_the_offsets_count(tmp_path: Path, text: str, start: int, expected: str) -> None:
    record = read_one(tmp_path, f"T1\tX {start} {start + 3}\ttwo\r\n", text)
    assert (record.text, record.entities[0].text_in(record.text)) == (expected, "two")


def test_unusual_line_separators_do_not_shift_offsets(tmp_path: Path) -> None:
    text = "a\x0cb\u2028c\x85d rash"
    assert read_one(tmp_path, "T1\tX 8 12\trash\n", text).entities[0].text_in(text) == "rash"


def test_subfolders_give_ids(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_pair(tmp_path / "b", "", name="1")
    write_pair(tmp_path, "", name="1")
    assert [r.id for r in read_brat(tmp_path)] == ["1", "b/1"]
    assert [r.id for r in read_brat(tmp_path / "b" / "1.ann")] == ["1"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("T2\tDrug 0 6\tAspirin", "does not select"),
        ("T2\tDrug 0 900\tAspirin", "ends at 900"),
        ("T2\tDrug 7 7\t", "empty or negative"),
        ("T2\tDrug 0 5;3 7\tAspir irin", "overlap"),
        ("T2\tDrug 0\tAspirin", "not a text bound"),
        ("T2 Drug 0 7 Aspirin", "not a BRAT line"),
        ("X1\tDrug 0 7\tAspirin", "not a BRAT line"),
        ("T1\tDrug 0 7\tAspirin", "defined twice"),
        ("R1\tCauses Arg1:T1 Arg2:T9", "'T9', which is not annotated"),
        ("R1\tCauses Arg1:T1", "1 arguments instead of two"),
        ("R1\tCauses T1 T1", "not `Role:Id`"),
        ("E1\tDrug:T9", "'T9', which is not annotated"),
        ("A1\tNegated E7", "'E7', which is not annotated"),
        ("A1\tNegated", "attribute without target"),
        ("N1\tReference T1", "not a normalisation"),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    error = failure(tmp_path, f"T1\tDrug 0 7\tAspirin\n\n{line}\n")
    assert problem in error.problem
    assert (error.path.name, error.line) == ("note.ann", 3)
    assert error.cure or str(error).count(".") > 1


def test_mismatch_can_be_left_out_with_what_refers_to_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mentions = "T1\tDrug 0 7\tAspirin\nT2\tADE 28 32\tbump\n"
    annotation = f"{mentions}R1\tC Arg1:T1 Arg2:T2\nE1\tADE:T2 Cause:T1\nA1\tNeg T2\nA2\tNeg R1\n"
    assert failure(tmp_path, annotation).line == 2
    with caplog.at_level(logging.WARNING):
        record = read_one(tmp_path, annotation, mismatch="skip")
    assert [e.id for e in record.entities] == ["T1"] and record.relations == ()
    assert not record.meta.get("attributes")
    assert "1 mentions" in caplog.text and "bump" not in caplog.text


@pytest.mark.parametrize(("kept", "problem"), [(".txt", "no .ann file"), (".ann", "has no .txt file")])
def test_missing_half_of_a_pair(tmp_path: Path, kept: str, problem: str) -> None:
    write_pair(tmp_path, "")
    (tmp_path / f"other{kept}").write_text("")
    with pytest.raises(CorpusError, match=problem) as caught:
        read_brat(tmp_path)
    assert caught.value.path.stem == "other"


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no \.txt and \.ann files"):
        read_brat(tmp_path)
    with pytest.raises(CorpusError, match="no such file or folder"):
        read_brat(tmp_path / "absent")


def test_wrong_encoding_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_bytes("ok\ncaf\xe9".encode("latin-1"))
    (tmp_path / "n.ann").write_text("T1\tX 3 7\tcafé\n", encoding="latin-1")
    with pytest.raises(CorpusError, match="not utf-8") as caught:
        read_brat(tmp_path)
    assert caught.value.line == 2
    assert read_brat(tmp_path, encoding="latin-1")[0].entities[0].end == 7
