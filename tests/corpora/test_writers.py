"""Write, read, compare: what a format can hold comes back, and what it cannot is counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from bioc import biocxml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinprompt.corpora.bioc_format import read_bioc
from clinprompt.corpora.brat import read_brat
from clinprompt.corpora.conll import read_conll
from clinprompt.corpora.jsonl import read_records, record_from_dict, record_to_dict
from clinprompt.corpora.writers import brat_annotations, conll_rows, write_bioc, write_brat, write_conll, write_jsonl
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Letters, the characters that formats quote or split at, and what lies outside the basic plane.
texts = st.text(alphabet="ab Z9.,-#<&>\"'|;\\\n\r\t\u00e9\u2028\x85\x0c\U0001f912", min_size=1, max_size=60)
words = st.text(alphabet="abcXYZ09_", min_size=1, max_size=8)
names = st.sampled_from(["Drug", "Sign_symptom", "B-cell", "ADE"])


@st.composite
def entities(draw: st.DrawFn, text: str, *, spans: int, solid: bool = False) -> list[Entity]:
    """Mentions in `text`; `solid` ones begin and end in something visible."""
    found = []
    for number in range(draw(st.integers(0, 4))):
        edges = sorted(draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=2 * spans)))
        pairs = tuple(zip(edges[::2], edges[1::2], strict=False))
        if solid and any(text[a:b] != text[a:b].strip() for a, b in pairs):
            continue
        concepts = tuple(draw(st.lists(st.sampled_from(["MESH:D1", "D2", "rs3"]), unique=True, max_size=2)))
        found.append(Entity(f"T{number + 1}", draw(names), pairs, concepts))
    return found


@st.composite
def records(draw: st.DrawFn, *, spans: int = 3, solid: bool = False) -> Record:
    text = draw(texts)
    mentions = [e for n, e in enumerate(draw(entities(text, spans=spans, solid=solid))) if n < 4]
    numbered = tuple(Entity(f"T{n}", e.type, e.spans, e.concepts) for n, e in enumerate(mentions, start=1))
    pairs = [(a.id, b.id) for a in numbered for b in numbered if a is not b]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3)) if pairs else []
    relations = tuple(Relation("causes", head, tail, f"R{n}") for n, (head, tail) in enumerate(chosen, start=1))
    return Record(draw(words), text, entities=numbered, relations=relations)


@st.composite
def full_records(draw: st.DrawFn) -> Record:
    base = draw(records())
    optional = st.none() | texts
    json_values: st.SearchStrategy[Any] = st.recursive(
        st.none() | st.booleans() | st.integers() | texts, lambda v: st.lists(v, max_size=2) | st.dictionaries(words, v)
    )
    return Record(
        base.id,
        base.text,
        entities=base.entities,
        relations=base.relations,
        label=draw(optional),
        question=draw(optional),
        options=tuple(draw(st.lists(st.tuples(words, texts), max_size=3))),
        answer=draw(optional),
        hypothesis=draw(optional),
        summary=draw(optional),
        group=draw(st.just("") | words),
        meta=draw(st.dictionaries(words, json_values, max_size=2)),
    )


@PROPERTY
@given(record=full_records())
def test_jsonl_returns_the_record(tmp_path: Path, record: Record) -> None:
    assert record_from_dict(record_to_dict(record)) == record
    write_jsonl([record], tmp_path / "r.jsonl")
    assert read_records(tmp_path / "r.jsonl") == [record]


def test_jsonl_escapes_what_utf8_cannot_hold(tmp_path: Path) -> None:
    record = Record("a", "broken \ud83e emoji")
    write_jsonl([record, Record("b", "café")], tmp_path / "r.jsonl")
    assert read_records(tmp_path / "r.jsonl") == [record, Record("b", "café")]
    assert "café" in (tmp_path / "r.jsonl").read_text(encoding="utf-8")
    with pytest.raises(CorpusError, match="unpaired surrogates"):
        write_conll([Record("a", "x \ud83e", entities=(Entity("T1", "X", ((2, 3),)),))], tmp_path / "r.conll")
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]  # nothing half-written is left


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "a"}', "`text` is missing"),
        ('{"id": 1, "text": ""}', "`id` is not a string"),
        ('{"id": "a", "text": "secret", "lable": "x"}', "unknown key `lable`"),
        ('{"id": "a", "text": "secret", "entities": [{"id": "T1", "type": "X"}]}', "needs `id`, `type` and `spans`"),
        (
            '{"id": "a", "text": "x", "entities": [{"id": "T1", "type": "X", "spans": [[0, 1.5]]}]}',
            "needs `id`, `type`",
        ),
        ('{"id": "a", "text": "x", "entities": [{"id": "T1", "type": "X", "spans": [[0, 9]]}]}', "ends at 9"),
        ('{"id": "a", "text": "x", "entities": [{"id": "T1", "type": "X", "spans": []}]}', "has no span"),
        ('{"id": "a", "text": "secret", "relations": [{}]}', "`type`, `head` and `tail`"),
        ('{"id": "a", "text": "secret", "options": ["yes"]}', "not a pair"),
        ('{"id": "a", "text": "secret", "meta": []}', "`meta` is not an object"),
        ("[]", "not an object"),
        ("{", "not JSON"),
        ('{"id": "first", "text": ""}', "'first' appears twice"),
    ],
)
def test_records_name_the_line(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "first", "text": ""}\n\n' + line + "\n")
    with pytest.raises(CorpusError) as caught:
        read_records(path)
    assert problem in caught.value.problem and caught.value.line == 3 and "secret" not in str(caught.value)


# -- BRAT --------------------------------------------------------------------------------------------------------------


@PROPERTY
@given(record=records(solid=True))
def test_brat_returns_text_mentions_and_relations(tmp_path: Path, record: Record) -> None:
    folder = tmp_path / "out"
    assert write_brat([record], folder) == 0
    for old in folder.glob("*"):
        if old.stem != record.id:
            old.unlink()
    (back,) = read_brat(folder)
    assert back.text == record.text
    assert back.relations == record.relations
    for written, read in zip(record.entities, back.entities, strict=True):
        assert (read.id, read.type, read.concepts) == (written.id, written.type, written.concepts)
        # BRAT cannot cross a line break: the same visible characters, perhaps in more fragments.
        assert covered(record.text, read) == covered(record.text, written)


def covered(text: str, entity: Entity) -> set[int]:
    return {offset for start, end in entity.spans for offset in range(start, end) if text[offset] not in "\r\n"}


def test_brat_joins_lines_again(tmp_path: Path) -> None:
    record = Record("n", "chest\n pain, left", entities=(Entity("T1", "Sign", ((0, 11), (13, 17))),))
    write_brat([record], tmp_path)
    assert (tmp_path / "n.ann").read_text() == "T1\tSign 0 5;6 11;13 17\tchest  pain left\n"
    assert read_brat(tmp_path, join_line_breaks=True) == [record]


def test_brat_keeps_attributes_and_first_mention_of_a_concept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mentions = tuple(Entity(i, "D x", ((n, n + 1),), ("D1",)) for n, i in enumerate(("x", "y")))
    record = Record(
        "patient 7/a",
        "ab",
        entities=(*mentions, Entity("z", "Drug", ((0, 2),))),
        relations=(Relation("treats", "z", "D1"), Relation("treats", "z", "D9")),
        meta={"attributes": {"y": {"Negated": True, "Certainty": "quite sure"}, "gone": {"a": "b"}}},
    )
    with caplog.at_level(logging.WARNING):
        assert write_brat([record], tmp_path) == 1
    assert "left out 1 relations" in caplog.text
    (back,) = read_brat(tmp_path)
    assert (back.id, [e.type for e in back.entities]) == ("patient_7_a", ["D_x", "D_x", "Drug"])
    assert back.relations == (Relation("treats", "T3", "T1", "R1"),)
    assert back.meta["attributes"] == {"T2": {"Negated": True, "Certainty": "quite sure"}}
    with pytest.raises(CorpusError, match="share this name"):
        write_brat([record, Record("patient 7_a", "x")], tmp_path)
    with pytest.raises(CorpusError, match="share this name"):
        write_brat([Record("n", "x"), Record("n", "y")], tmp_path)


def test_brat_annotations_of_an_unannotated_record() -> None:
    assert brat_annotations(Record("a", "text")) == ("", 0)


# -- CoNLL -------------------------------------------------------------------------------------------------------------


@PROPERTY
@given(record=records(spans=1, solid=True))
def test_conll_returns_the_mentions_it_holds(tmp_path: Path, record: Record) -> None:
    left_out = write_conll([record], tmp_path / "r.conll")
    rows = [line.split("\t") for line in conll_rows(record)[0].split("\n") if "\t" in line][1:]
    assert all(record.text[int(start) : int(end)] == token for token, start, end, _ in rows)
    assert "".join(token for token, *_ in rows) == "".join(record.text.split())
    tagged = [(int(row[1]), row[3]) for row in rows if row[3] != "O"]
    begun = [(start, tag[2:]) for start, tag in tagged if tag.startswith("B-")]
    kept = [(e.start, e.type) for e in record.entities]
    assert len(begun) == len(record.entities) - left_out and set(begun) <= set(kept)
    back = read_conll(tmp_path / "r.conll", unit="document")
    if rows:
        (read,) = back
        assert read.id == record.id
        assert [e.type for e in read.entities] == [kind for _, kind in begun]


def test_conll_rows() -> None:
    record = Record(
        "a b",
        "No chest-pain.\n\nAspirin81 x",
        entities=(
            Entity("1", "Sign", ((3, 13),)),
            Entity("2", "Place", ((3, 8),)),  # inside the first: left out
            Entity("3", "Drug", ((16, 23),)),  # ends inside a word: the word is cut
            Entity("4", "Pair", ((0, 2), (26, 27))),  # discontinuous: left out
        ),
    )
    text, left_out = conll_rows(record)
    assert left_out == 2
    assert text.split("\n") == [
        "-DOCSTART-\ta b\t-X-\tO",
        "",
        "No\t0\t2\tO",
        "chest\t3\t8\tB-Sign",
        "-\t8\t9\tI-Sign",
        "pain\t9\t13\tI-Sign",
        ".\t13\t14\tO",
        "",
        "Aspirin\t16\t23\tB-Drug",
        "81\t23\t25\tO",
        "x\t26\t27\tO",
        "",
        "",
    ]


def test_conll_counts_mentions_without_a_token(tmp_path: Path) -> None:
    blank = Record("a", "x  y", entities=(Entity("1", "X", ((1, 3),)),))
    assert write_conll([blank], tmp_path / "r.conll") == 1


# -- BioC --------------------------------------------------------------------------------------------------------------


@PROPERTY
@given(record=records())
@pytest.mark.parametrize("name", ["r.xml", "r.json"])
def test_bioc_returns_the_record(tmp_path: Path, name: str, record: Record) -> None:
    changed = write_bioc([record], tmp_path / name)
    (back,) = read_bioc(tmp_path / name)
    text = record.text if name == "r.json" else record.text.replace("\x0c", " ")
    assert changed == (0 if name == "r.json" else record.text.count("\x0c"))
    assert (back.id, back.text, back.entities, back.relations) == (record.id, text, record.entities, record.relations)


def test_bioc_is_read_by_the_bioc_package(tmp_path: Path) -> None:
    record = Record(
        "d",
        "Aspirin & rash",
        entities=(Entity("T1", "Drug", ((0, 7),), ("D1", "D2")), Entity("T2", "ADE", ((10, 14),))),
        relations=(Relation("causes", "T1", "T2", "R1"), Relation("same", "D1", "D2")),
        label="yes",
    )
    write_bioc([record], tmp_path / "r.xml")
    with (tmp_path / "r.xml").open(encoding="utf-8") as file:
        collection = biocxml.loads(file.read())
    (document,) = collection.documents
    (passage,) = document.passages
    assert (document.infons, passage.text) == ({"label": "yes"}, record.text)
    assert [(a.infons["type"], a.text, a.total_span.offset) for a in passage.annotations] == [
        ("Drug", "Aspirin", 0),
        ("ADE", "rash", 10),
    ]
    (back,) = read_bioc(tmp_path / "r.xml")
    assert [(r.type, r.head, r.tail) for r in back.relations] == [("causes", "T1", "T2"), ("same", "D1", "D2")]
    assert back.meta["infons"] == {"label": "yes"}
