"""Tables: the column mapping in every format, and errors that name file, line and column."""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path

import pytest
from openpyxl import Workbook

from clinprompt.corpora.tabular import read_tabular
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

COLUMNS = {"id": "pid", "text": "note", "label": "class"}


def write(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


def brief(records: list[Record]) -> list[tuple[str, str, str | None]]:
    return [(r.id, r.text, r.label) for r in records]


EXPECTED = [("1", 'a "b", c\nd', "yes"), ("2", "plain", None)]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv(tmp_path: Path, newline: str, start: str) -> None:
    rows = [start + "pid,note,class", '1,"a ""b"", c\nd",yes', "", ",,", "2,plain,"]
    assert brief(read_tabular(write(tmp_path, "t.csv", newline.join(rows)), COLUMNS)) == EXPECTED


def test_tsv_takes_quotation_marks_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, "t.tsv", 'note\tclass\n"open quote\tA\nb\tB\n')
    columns = {"text": "note", "label": "class"}
    assert brief(read_tabular(path, columns)) == [("t:1", '"open quote', "A"), ("t:2", "b", "B")]
    quoted = write(tmp_path, "q.tsv", 'note\tclass\n"tab\there"\tA\n')
    assert brief(read_tabular(quoted, columns, quoting="minimal")) == [("q:1", "tab\there", "A")]


def test_jsonl_json_and_nested_paths(tmp_path: Path) -> None:
    rows = [{"meta": {"pid": 1}, "note": 'a "b", c\nd', "class": "yes"}, {"meta": {"pid": 2.0}, "note": ["plain"]}]
    columns = COLUMNS | {"id": "meta.pid"}
    lines = "\n\n".join(json.dumps(row) for row in rows)
    assert brief(read_tabular(write(tmp_path, "t.jsonl", lines), columns)) == EXPECTED
    assert brief(read_tabular(write(tmp_path, "t.json", json.dumps(rows)), columns)) == EXPECTED
    wrapped = write(tmp_path, "w.json", json.dumps({"data": {"rows": rows}, "version": 1}))
    assert brief(read_tabular(wrapped, columns, items="data.rows")) == EXPECTED


def test_json_object_of_objects_gives_its_keys(tmp_path: Path) -> None:
    content = json.dumps({"11": {"q": "Why?", "ctx": ["one", "two"]}, "12": {"q": "How?", "ctx": []}})
    records = read_tabular(write(tmp_path, "t.json", content), {"id": "@key", "question": "q", "text": "ctx"})
    assert [(r.id, r.question, r.text) for r in records] == [("11", "Why?", "one\ntwo"), ("12", "How?", "")]


def workbook(folder: Path, rows: list[list[object]], title: str = "Sheet", wide: int = 0) -> Path:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = title
    for row in rows:
        sheet.append(row)
    if wide:
        for row_number in range(1, len(rows) + 1):
            sheet.cell(row_number, wide).value = ""
    path = folder / "t.xlsx"
    book.save(path)
    return path


def test_xlsx(tmp_path: Path) -> None:
    rows = [["pid", "note", None, "class"], [1, 'a "b", c\nd', None, "yes"], [None] * 4, [2.0, "plain", None, None]]
    path = workbook(tmp_path, rows)
    assert brief(read_tabular(path, COLUMNS)) == EXPECTED
    dated = workbook(tmp_path, [["note", "class"], [date(2020, 1, 2), True]])
    assert brief(read_tabular(dated, {"text": "note", "label": "class"}))[0][1:] == ("2020-01-02T00:00:00", "true")


def test_xlsx_with_empty_columns_is_fast(tmp_path: Path) -> None:
    rows: list[list[object]] = [["note"], *[[f"row {n}"] for n in range(300)]]
    path = workbook(tmp_path, rows, wide=900)
    started = time.perf_counter()
    assert len(read_tabular(path, {"text": "note"})) == 300
    assert time.perf_counter() - started < 5


def test_xlsx_sheets(tmp_path: Path) -> None:
    path = workbook(tmp_path, [["note"], ["a"]], title="Data")
    assert brief(read_tabular(path, {"text": "note"}, sheet="Data")) == [("t:1", "a", None)]
    with pytest.raises(CorpusError, match=r"no sheet 'Dta'\. Sheets: Data"):
        read_tabular(path, {"text": "note"}, sheet="Dta")
    with pytest.raises(CorpusError, match="not an XLSX workbook"):
        read_tabular(write(tmp_path, "x.xlsx", "note\na\n"), {"text": "note"})


def test_positions_instead_of_names(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "7,a,1\n8,b,0\n")
    columns = {"id": "0", "text": "1", "label": "2"}
    names = {"1": "similar", "0": "different"}
    records = read_tabular(path, columns, header=False, label_names=names)
    assert brief(records) == [("7", "a", "similar"), ("8", "b", "different")]
    assert len(read_tabular(path, columns)) == 1  # with a header, positions are the fallback


def test_other_delimiter_encoding_and_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, "t.dat", "note;class\ncafé;A\n", "cp1252")
    columns = {"text": "note", "label": "class"}
    assert brief(read_tabular(path, columns, format="csv", delimiter=";", encoding="cp1252"))[0][1] == "café"
    with pytest.raises(CorpusError, match="not utf-8") as caught:
        read_tabular(path, columns, format="csv", delimiter=";")
    assert caught.value.line == 2
    with pytest.raises(CorpusError, match="names no table format"):
        read_tabular(path, columns)


def test_field_longer_than_the_csv_default(tmp_path: Path) -> None:
    note = "x" * 300_000
    assert read_tabular(write(tmp_path, "t.csv", f"note\n{note}\n"), {"text": "note"})[0].text == note


def test_identity_mapping(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "text,hypothesis,label,extra,option.A,meta.site\np,h,neutral,x,first,north\n")
    assert read_tabular(path) == [
        Record("t:1", "p", hypothesis="h", label="neutral", options=(("A", "first"),), meta={"site": "north"})
    ]


@pytest.mark.parametrize(
    ("row", "columns", "settings", "options", "answer"),
    [
        ({"o": ["x", "y"], "a": "B"}, {}, {}, (("A", "x"), ("B", "y")), "B"),
        ({"o": ["x", "y"], "a": "y"}, {}, {}, (("A", "x"), ("B", "y")), "B"),  # by its text
        ({"o": ["x", "y"], "a": 2}, {}, {"answer_base": 1}, (("A", "x"), ("B", "y")), "B"),
        ({"o": {"C": "x", "D": "y"}, "a": "D"}, {}, {}, (("C", "x"), ("D", "y")), "D"),
        ({"o": '["x", "y"]', "a": "A"}, {}, {}, (("A", "x"), ("B", "y")), "A"),
        ({"o": "x | y", "a": 0}, {}, {"option_separator": "|", "answer_base": 0}, (("A", "x"), ("B", "y")), "A"),
        ({"o": [{"key": "Q", "value": "x"}], "a": "Q"}, {}, {}, (("Q", "x"),), "Q"),
        ({"p": "x", "q": 2, "r": None, "a": "B"}, {"option.A": "p", "option.B": "q", "option.C": "r"}, {}, None, "B"),
        ({"o": None, "a": "free text"}, {}, {}, (), "free text"),
    ],
)
def test_options_and_answers(
    tmp_path: Path,
    row: dict[str, object],
    columns: dict[str, str],
    settings: dict[str, object],
    options: tuple[tuple[str, str], ...] | None,
    answer: str,
) -> None:
    path = write(tmp_path, "t.jsonl", json.dumps(row))
    mapping = {"answer": "a"} | (columns or {"options": "o"})
    (record,) = read_tabular(path, mapping, **settings)  # type: ignore[arg-type]
    assert record.options == ((("A", "x"), ("B", "2")) if options is None else options)
    assert record.answer == answer


def test_entities_and_relations(tmp_path: Path) -> None:
    row = {
        "text": "Aspirin caused mild rash",
        "entities": [
            {"start": 0, "end": 7, "type": "Drug", "id": "d", "concepts": ["D1"]},
            [20, 24, "ADE"],
            {"spans": [[0, 7], [20, 24]], "label": "Pair"},
        ],
        "relations": [["causes", "d", "T2"], {"type": "same", "head": "D1", "tail": "d"}],
    }
    as_jsonl = read_tabular(write(tmp_path, "t.jsonl", json.dumps(row)))
    cells = [str(row["text"]), *(json.dumps(row[key]).replace('"', '""') for key in ("entities", "relations"))]
    line = ",".join(f'"{value}"' for value in cells)
    as_csv = read_tabular(write(tmp_path, "t.csv", f"text,entities,relations\n{line}\n"))
    assert as_jsonl == as_csv
    assert as_jsonl[0].entities == (
        Entity("d", "Drug", ((0, 7),), ("D1",)),
        Entity("T2", "ADE", ((20, 24),)),
        Entity("T3", "Pair", ((0, 7), (20, 24))),
    )
    assert as_jsonl[0].relations == (Relation("causes", "d", "T2", "R1"), Relation("same", "D1", "d", "R2"))


@pytest.mark.parametrize(
    ("name", "content", "columns", "line", "problem"),
    [
        ("t.csv", "note,class\na,b\n", {"text": "nte"}, 1, "no column 'nte' (text). Columns: 'note', 'class'"),
        ("t.csv", "note,note\na,b\n", {"text": "note"}, 1, "'note' (text) appears more than once"),
        ("t.csv", "note,class\na\n", {"text": "note"}, 2, "row has 1 fields, the first row has 2"),
        ("t.csv", 'note,class\na,b\n"secret,c\n', {"text": "note"}, 3, "not a valid row"),
        ("t.csv", "note\nsecret\n", {"txt": "note"}, None, "unknown field 'txt'"),
        ("t.csv", "note\nsecret\n", {}, 1, "no column is mapped"),
        ("t.csv", "text,entities\nsecret,[[\n", {}, 2, "'entities' (entities) is not JSON"),
        ("t.jsonl", '{"text": "secret"}\n{"text": \n', {}, 2, "not JSON"),
        ("t.jsonl", '{"text": "secret"}\n[1]\n', {}, 2, "an object is expected"),
        ("t.jsonl", '{"text": "secret"}\n{"text": {"a": 1}}\n', {}, 2, "holds an object, not text"),
        ("t.jsonl", '{"text": "secret"}\n', {"text": "body"}, None, "no column 'body' (text). Columns: 'text'"),
        ("t.json", '{"a": 1}', {"text": "b"}, None, "neither a list of objects"),
        ("t.json", '[{"text": "secret"},\n {"text" 1}]', {}, 2, "not JSON"),
        ("t.json", '[{"text": "a"}, 3]', {}, None, "item 2: an object is expected"),
        ("t.jsonl", '{"text": "secret", "entities": [[0, 9, "X"]]}', {}, 1, "ends at 9"),
        ("t.jsonl", '{"text": "secret", "entities": [[3, 3, "X"]]}', {}, 1, "empty or negative"),
        ("t.jsonl", '{"text": "secret", "entities": [[0, 2.5, "X"]]}', {}, 1, "item 1 is not a mention"),
        ("t.jsonl", '{"text": "secret", "entities": [{"start": 0}]}', {}, 1, "item 1 is not a mention"),
        ("t.jsonl", '{"text": "secret", "entities": "no"}', {}, 1, "is not JSON"),
        ("t.jsonl", '{"text": "secret", "entities": 3}', {}, 1, "holds a number, not a list"),
        (
            "t.jsonl",
            '{"text": "secret", "entities": [[0, 2, "X"]], "relations": [["r", "T1", "T9"]]}',
            {},
            1,
            "refers to 'T9'",
        ),
        (
            "t.jsonl",
            '{"text": "s", "entities": [{"start": 0, "end": 1, "type": "X", "id": "a"}, {"start": 0, "end": 1, "type": '
            '"X", "id": "a"}]}',
            {},
            1,
            "uses an id twice",
        ),
        ("t.jsonl", '{"options": ["a", "b"], "answer": "c"}', {}, 1, "is neither an option's key (A, B) nor"),
    ],
)
def test_errors_name_place_and_cure(
    tmp_path: Path, name: str, content: str, columns: dict[str, str], line: int | None, problem: str
) -> None:
    with pytest.raises(CorpusError) as caught:
        read_tabular(write(tmp_path, name, content), columns)
    assert problem in caught.value.problem
    assert (caught.value.path.name, caught.value.line) == (name, line)
    assert caught.value.cure and "secret" not in str(caught.value)


def test_label_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "text,label\nsecret,1\nsecret,2\n")
    with pytest.raises(CorpusError, match="label_names") as caught:
        read_tabular(path, label_names={"1": "one"})
    assert caught.value.line == 3


def test_answer_position_out_of_range(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", '{"options": ["a", "b"], "answer": 2}')
    with pytest.raises(CorpusError, match="not a position among 2 options counted from 0"):
        read_tabular(path, answer_base=0)


def test_missing_file(tmp_path: Path) -> None:
    for name in ("t.csv", "t.xlsx", "t.json"):
        with pytest.raises(CorpusError, match="no such file"):
            read_tabular(tmp_path / name, {"text": "a"})


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_empty_tables_have_no_records(tmp_path: Path, name: str) -> None:
    assert read_tabular(write(tmp_path, name, ""), {"text": "note"}) == []
