"""Valid files of every format, damaged at random: records whose offsets hold, or an error that names the file.

No other exception may come out, and no word of the text may stand in the message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from clinprompt.corpora.bioc_format import read_bioc
from clinprompt.corpora.formats import read_corpus
from clinprompt.corpora.jsonl import read_records
from clinprompt.corpora.tabular import read_tabular
from clinprompt.corpora.writers import write_bioc, write_brat, write_conll, write_jsonl
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

SECRET = "Quetzalcoatl"
RECORD = Record(
    "doc",
    f"{SECRET} took aspirin.\nRash & fever followed.",
    entities=(Entity("T1", "Person", ((0, 12),), ("D1",)), Entity("T2", "ADE", ((27, 31), (34, 39)))),
    relations=(Relation("has", "T1", "T2", "R1"),),
)
PUBTATOR = f"1|t|{SECRET} rash\n1|a|More.\n1\t0\t12\t{SECRET}\tPerson\tD1\n1\tCID\tD1\tD1\n"
I2B2_XML = (
    f"<a><TEXT><![CDATA[{SECRET} rash]]></TEXT>\n<TAGS>\n"
    f'<EVENT id="E0" start="1" end="13" text="{SECRET}" type="X" />\n'
    '<TLINK id="L" fromID="E0" toID="E0" type="BEFORE" /></TAGS></a>'
)
CON = f'c="{SECRET.lower()}" 1:0 1:0||t="problem"\n'

JUNK = st.sampled_from(
    [
        "",
        "\t",
        "\n",
        " ",
        "0",
        "9",
        "-1",
        "99999999999999999999",
        "²",
        '"',
        "<",
        "&",
        "[",
        "{",
        "|",
        ":",
        "\ud7ff",
        "T1",
    ]
)


@st.composite
def damages(draw: st.DrawFn, content: str) -> str:
    """One to three pieces of `content` replaced by something else."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        content = content[:start] + draw(JUNK) + content[end:]
    return content


def as_brat(folder: Path) -> Path:
    write_brat([RECORD], folder)
    return folder / "doc.ann"


def as_written(name: str, writer: Callable[[list[Record], Path], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        writer([RECORD], folder / name)
        return folder / name

    return write


def as_text(name: str, content: str, **beside: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for suffix, text in beside.items():
            (folder / name).with_suffix(f".{suffix}").write_text(text)
        (folder / name).write_text(content)
        return folder / name

    return write


TABLE = f'text,label,entities\n"{SECRET}, well",a,"[[0, 12, ""X""]]"\nplain,b,\n'
CASES: dict[str, tuple[Callable[[Path], Path], str, bool]] = {
    "brat": (as_brat, "brat", True),
    "bioc": (as_written("doc.xml", write_bioc), "bioc", False),
    "bioc-json": (as_written("doc.json", write_bioc), "bioc", False),
    "conll": (as_written("doc.conll", write_conll), "conll", False),
    "records": (as_written("doc.jsonl", write_jsonl), "records", False),
    "jsonl": (as_written("doc.jsonl", write_jsonl), "jsonl", False),
    "csv": (as_text("doc.csv", TABLE), "csv", False),
    "pubtator": (as_text("doc.txt", PUBTATOR), "pubtator", False),
    "i2b2-2012": (as_text("doc.xml", I2B2_XML), "i2b2-2012", False),
    "i2b2-2014": (as_text("doc.xml", I2B2_XML.replace('"13"', '"12"').replace('"1"', '"0"')), "i2b2-2014", False),
    "i2b2-2010": (as_text("doc.con", CON, txt=f"{SECRET} rash"), "i2b2-2010", True),
}


@pytest.mark.parametrize("mismatch", ["error", "skip"])
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path: Path, case: str, mismatch: str, data: st.DataObject) -> None:
    make, format, by_folder = CASES[case]
    path = make(tmp_path)
    path.write_bytes(data.draw(damages(path.read_text(encoding="utf-8"))).encode())
    options = {"mismatch": mismatch} if format in ("brat", "bioc", "pubtator") or "i2b2" in format else {}
    try:
        records = read_corpus(format, [tmp_path if by_folder else path], None, options)
    except CorpusError as error:
        assert str(tmp_path) in str(error) and error.problem
        assert SECRET.lower() not in str(error).lower()
        return
    for record in records:
        for entity in record.entities:
            assert 0 <= entity.start < entity.end <= len(record.text)


JSON_VALUES = st.sampled_from([None, True, 0, -1, 1.5, "", "x", [], {}, [[]], [None], {"id": None}, 10**30])


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.parametrize("reader", [read_bioc, read_records, read_tabular])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_json_of_another_shape(tmp_path: Path, reader: Callable[[Path], list[Record]], data: st.DataObject) -> None:
    path = tmp_path / ("doc.json" if reader is read_bioc else "doc.jsonl")
    write_bioc([RECORD], path) if reader is read_bioc else write_jsonl([RECORD], path)
    value = json.loads(path.read_text(encoding="utf-8"))
    container, key = data.draw(st.sampled_from(places(value)))
    container[key] = data.draw(JSON_VALUES)
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        reader(path)
    except CorpusError as error:
        assert str(path) in str(error) and SECRET not in str(error)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 6000), junk=st.binary(min_size=1, max_size=40))
def test_damaged_workbooks(tmp_path: Path, start: int, junk: bytes) -> None:
    path = tmp_path / "doc.xlsx"
    if not (tmp_path / "whole").exists():
        book = Workbook()
        sheet = book.active
        assert sheet is not None
        sheet.append(["text", "label"])
        sheet.append([SECRET, "a"])
        book.save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    path.write_bytes(whole[:start] + junk + whole[start + len(junk) :])
    try:
        read_tabular(path)
    except CorpusError as error:
        assert str(path) in str(error) and SECRET not in str(error)
