"""Formats by name, and the options a task file may set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clinprompt.corpora.formats import READERS, read_corpus, reader_named
from clinprompt.errors import CorpusError, TaskError


def table(folder: Path, name: str, rows: list[str]) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows))
    return path


def test_names_are_those_of_the_documentation() -> None:
    tables = {"csv", "tsv", "jsonl", "json", "xlsx"}
    standoff = {"brat", "bioc", "pubtator", "conll", "records"}
    agreements = {"i2b2-2010", "i2b2-2012", "i2b2-2014", "n2c2-2018", "n2c2-2022-sdoh", "mednli", "mimic-cxr"}
    assert set(READERS) == tables | standoff | agreements
    assert "format" not in reader_named("csv").options and "delimiter" in reader_named("csv").options


def test_unknown_format_and_option_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"unknown format 'brart'\. Did you mean 'brat'\? Known: .*mimic-cxr"):
        read_corpus("brart", [])
    path = table(tmp_path, "a.conll", ["a\tO"])
    with pytest.raises(TaskError, match=r"'tag_colum'\. Did you mean 'tag_column'\? Known: .*unit"):
        read_corpus("conll", [path], None, {"tag_colum": 1})
    with pytest.raises(TaskError, match="reader option `unit`: Input should be 'sentence' or 'document'"):
        read_corpus("conll", [path], None, {"unit": "page"})
    with pytest.raises(TaskError, match="reader option `tag_column`: Input should be a valid integer"):
        read_corpus("conll", [path], None, {"tag_column": "last"})
    with pytest.raises(TaskError, match=r"unknown reader option 'format'"):
        read_corpus("csv", [path], None, {"format": "tsv"})
    with pytest.raises(TaskError, match=r"'brat' has no columns.*csv, tsv, jsonl, json, xlsx"):
        read_corpus("brat", [path], {"text": "note"})


def test_format_decides_over_the_suffix(tmp_path: Path) -> None:
    path = table(tmp_path, "data.txt", ["note\tlabel", 'say "a"\tyes'])
    (record,) = read_corpus("tsv", [path], {"text": "note", "label": "label"}, {"label_names": {"yes": "positive"}})
    assert (record.id, record.text, record.label) == ("data:1", 'say "a"', "positive")


def test_several_paths_share_no_id(tmp_path: Path) -> None:
    first = table(tmp_path / "a", "notes.csv", ["text", "one", "two"])
    second = table(tmp_path / "b", "notes.csv", ["text", "three"])
    assert [r.id for r in read_corpus("csv", [first])] == ["notes:1", "notes:2"]
    assert [(r.id, r.text) for r in read_corpus("csv", [first, second])] == [
        ("1:notes:1", "one"),
        ("1:notes:2", "two"),
        ("2:notes:1", "three"),
    ]


def test_id_twice_in_a_path_is_an_error(tmp_path: Path) -> None:
    path = table(tmp_path, "notes.csv", ["id,text", "7,one", "7,two"])
    with pytest.raises(CorpusError, match="record id '7' occurs twice"):
        read_corpus("csv", [path])


@pytest.mark.parametrize("format", sorted(READERS))
def test_every_reader_reports_an_absent_path(tmp_path: Path, format: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_corpus(format, [tmp_path / "absent"])
    assert "no such file" in str(caught.value) and "absent" in str(caught.value)


@pytest.mark.parametrize("format", sorted(READERS))
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe\x9d", b"{", b'\xef\xbb\xbf"', b"PK\x03\x04", b"<a>", b"[[[[" * 9000]
)
def test_no_reader_fails_in_another_way(tmp_path: Path, format: str, content: bytes) -> None:
    """Whatever the bytes, the answer is records or an error that names the file."""
    for suffix in (".txt", ".ann", ".con", ".xml", ".json", ".jsonl", ".csv", ".gz"):
        path = tmp_path / f"note{suffix}"
        path.write_bytes(content)
        try:
            read_corpus(format, [path])
        except CorpusError as error:
            assert "note" in str(error) or str(tmp_path) in str(error)
    try:
        read_corpus(format, [tmp_path])
    except CorpusError as error:
        assert str(tmp_path) in str(error)


def test_records_format(tmp_path: Path) -> None:
    path = table(tmp_path, "r.jsonl", [json.dumps({"id": "a", "text": "x", "label": "y"})])
    (record,) = read_corpus("records", [path])
    assert (record.id, record.label) == ("a", "y")
