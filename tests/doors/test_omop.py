"""OMOP NOTE_NLP: all columns within their widths, and the mentions come back from the rows and the notes."""

from __future__ import annotations

import csv
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinprompt.doors.omop import write_note_nlp
from clinprompt.errors import CorpusError, TaskError
from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.version import __version__
from tests.doors.notes import records
from tests.doors.tasks import NER, NLI, RELATE

FIND, INFER, LINK = (TaskDefinition.model_validate(d) for d in (NER, NLI, RELATE))
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# https://ohdsi.github.io/CommonDataModel/cdm54.html#note_nlp: name, type, required, and width where there is one
MODEL = """note_nlp_id int yes|note_id int yes|section_concept_id int no|snippet text no 250|offset text no 50
lexical_variant text yes 250|note_nlp_concept_id int no|note_nlp_source_concept_id int no|nlp_system text no 250
nlp_date date yes|nlp_datetime datetime no|term_exists text no 1|term_temporal text no 50|term_modifiers text no 2000"""
COLUMNS = [line.split() for line in MODEL.replace("\n", "|").split("|")]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_model(rows: list[dict[str, str]]) -> None:
    """Types, widths and required columns of the common data model."""
    for row in rows:
        assert list(row) == [name for name, *_ in COLUMNS]
        for name, kind, required, *width in COLUMNS:
            value = row[name]
            assert value or required == "no", name
            assert not width or len(value) <= int(width[0]), name
            if value and kind == "int":
                assert 0 <= int(value) < 2**31
            elif value and kind != "text":
                (date if kind == "date" else datetime).fromisoformat(value)


def modifiers(row: dict[str, str]) -> list[tuple[str, str]]:
    pairs = [part.split("=", 1) for part in row["term_modifiers"].split(",")]
    return [(name, unquote(value)) for name, value in pairs]


def spans(row: dict[str, str]) -> tuple[tuple[int, int], ...]:
    places = dict(modifiers(row)).get("spans", row["offset"])
    return tuple((int(a), int(b)) for a, b in (place.split("-") for place in places.split(";")))


def read_back(folder: Path, texts: dict[str, str]) -> dict[str, list[Entity]]:
    """Record id → mentions, from the two files alone."""
    names = {row["note_id"]: row["record"] for row in table(folder / "note_ids.csv")}
    found: dict[str, list[Entity]] = {name: [] for name in names.values()}
    for row in table(folder / "note_nlp.csv"):
        named = modifiers(row)
        concepts = tuple(value for name, value in named if name == "concept")
        entity = Entity(dict(named)["id"], dict(named)["type"], spans(row), concepts)
        name = names[row["note_id"]]
        assert entity.text_in(texts[name])[:250] == row["lexical_variant"]
        found[name].append(entity)
    return found


@given(
    st.lists(records(st.sampled_from(["7", "a b", 'q"\n,', "12", "é"])), max_size=4, unique_by=lambda r: r.id),
    st.booleans(),
)
def test_mentions_come_back(notes: list[Record], with_text: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        written = write_note_nlp([(FIND, Prediction(r)) for r in notes], Path(place), with_text=with_text, when=WHEN)
        check_model(table(Path(place) / "note_nlp.csv"))
        found = read_back(Path(place), {r.id: r.text for r in notes})
    assert found == {r.id: list(r.entities) for r in notes}
    assert (written.notes, written.mentions) == (len(notes), sum(len(r.entities) for r in notes))


def test_a_row(tmp_path: Path) -> None:
    text = "He takes aspirin\nfor pain."
    drug, pain = (
        Entity("T1", "Drug", ((9, 16),), ("OMOP:1112807",)),
        Entity("T2", "Problem", ((21, 25),), ("C0030193",)),
    )
    record = Record("41", text, (drug, pain), (Relation("treats", "T1", "C0030193"),))
    write_note_nlp([(LINK, Prediction(record))], tmp_path, with_text=True, when=WHEN)
    assert table(tmp_path / "note_nlp.csv")[0] == {
        "note_nlp_id": "1",
        "note_id": "41",
        "section_concept_id": "0",
        "snippet": "He takes aspirin for pain.",
        "offset": "9-16",
        "lexical_variant": "aspirin",
        "note_nlp_concept_id": "1112807",
        "note_nlp_source_concept_id": "0",
        "nlp_system": f"clinprompt {__version__}; task relate",
        "nlp_date": "2026-01-02",
        "nlp_datetime": "2026-01-02 03:04:05",
        "term_exists": "",
        "term_temporal": "",
        "term_modifiers": "task=relate,type=Drug,id=T1,concept=OMOP:1112807,relation=treats:C0030193",
    }
    assert table(tmp_path / "note_nlp.csv")[1]["note_nlp_concept_id"] == "0"


def test_snippets_hold_text_only_on_request(tmp_path: Path) -> None:
    record = Record("a", "SECRET " * 50 + "gout", (Entity("T1", "Problem", ((350, 354),)),))
    for flag in (False, True):
        write_note_nlp([(FIND, Prediction(record))], tmp_path, with_text=flag, when=WHEN)
        (row,) = table(tmp_path / "note_nlp.csv")
        assert ("SECRET" in row["snippet"]) is flag and row["lexical_variant"] == "gout"
    assert "gout" in row["snippet"]


def test_what_the_columns_are_too_narrow_for_is_counted(tmp_path: Path) -> None:
    text = "x" * 4000
    many = tuple((i, i + 1) for i in range(0, 60, 2))
    entities = (
        Entity("T1", "Problem", ((0, 300),)),
        Entity("T2", "Problem", many),
        Entity("T3", "Problem", ((0, 1),), tuple(f"MESH:{i:08}" for i in range(200))),
    )
    written = write_note_nlp([(FIND, Prediction(Record("a", text, entities)))], tmp_path, when=WHEN)
    assert (written.shortened, written.narrowed) == (1, 1)
    rows = table(tmp_path / "note_nlp.csv")
    check_model(rows)
    assert len(rows[0]["lexical_variant"]) == 250 and rows[0]["offset"] == "0-300"
    assert rows[1]["offset"] == "0-59" and spans(rows[1]) == many
    assert dict(modifiers(rows[2]))["concept"].startswith("MESH:")


def test_several_tasks_share_the_note(tmp_path: Path) -> None:
    note, other = Record("x", "gout", (Entity("T1", "Problem", ((0, 4),)),)), Record("y", "gout")
    write_note_nlp([(FIND, Prediction(note)), (LINK, Prediction(note)), (FIND, Prediction(other))], tmp_path, when=WHEN)
    rows = table(tmp_path / "note_nlp.csv")
    assert [(r["note_nlp_id"], r["note_id"]) for r in rows] == [("1", "1"), ("2", "1")]
    assert [dict(modifiers(r))["task"] for r in rows] == ["find", "relate"]
    assert len(table(tmp_path / "note_ids.csv")) == 2


def test_whole_numbers_are_ids_only_if_all_are_and_differ(tmp_path: Path) -> None:
    for ids, expected in (
        (["7", "9"], ["7", "9"]),
        (["7", "x"], ["1", "2"]),
        (["7", "07"], ["1", "2"]),
        (["9999999999"], ["1"]),
    ):
        write_note_nlp([(FIND, Prediction(Record(i, "a"))) for i in ids], tmp_path, when=WHEN)
        assert [row["note_id"] for row in table(tmp_path / "note_ids.csv")] == expected


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="infer is a nli task"):
        write_note_nlp([(INFER, Prediction(Record("a", "b")))], tmp_path)
    with pytest.raises(CorpusError, match="two texts share the id 'a'"):
        write_note_nlp([(FIND, Prediction(Record("a", "b"))), (FIND, Prediction(Record("a", "c")))], tmp_path)
    assert not any(tmp_path.iterdir())
