"""What is predicted on: records of several inputs, and where they come from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from clinprompt.errors import CorpusError
from clinprompt.evaluation.inputs import read_inputs, standard_input
from clinprompt.tasks.definition import TaskDefinition

NER = TaskDefinition(name="find", type="ner", labels={"Problem": ""})


def two_notes(folder: Path) -> list[Path]:
    """SECRET/note.txt twice, in two folders."""
    found = [folder / name / "note.txt" for name in ("a", "b")]
    for path in found:
        path.parent.mkdir()
        path.write_text(f"SECRET of {path.parent.name}")
    return found


def test_names_are_shared_only_where_nothing_is_filed(tmp_path: Path) -> None:
    first, second = two_notes(tmp_path)
    assert [record.id for record in read_inputs(NER, [first, second])] == ["note", "note"]
    with pytest.raises(CorpusError, match="answers are filed under it") as refused:
        list(read_inputs(NER, [first, second], filed=str))
    assert str(first) in str(refused.value) and str(second) in str(refused.value)
    assert "SECRET" not in str(refused.value)
    assert [record.id for record in read_inputs(NER, [tmp_path], filed=str)] == ["a/note", "b/note"]


def test_a_repeated_id_names_both_lines(tmp_path: Path) -> None:
    lines, more = tmp_path / "n.jsonl", tmp_path / "m.jsonl"
    lines.write_text('{"id": "x", "text": "a"}\n\n{"id": "x", "text": "b"}\n')
    with pytest.raises(CorpusError, match=f"{lines}:3: .*{lines}:1 too"):
        list(read_inputs(NER, [lines], filed=str))
    lines.write_text('{"text": "a"}\n')
    more.write_text('{"text": "b"}\n')
    with pytest.raises(CorpusError, match=f"{more}:1: .*{lines}:1 too"):
        list(read_inputs(NER, [lines, more], filed=str))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n\n{"text": "SECRET \xe9"}\n', "{name}:3: not UTF-8."),
        (b'{"text": "a"}\n{"text": "SECRET \xed\xa0\x80"}\n', "{name}:2: not UTF-8."),
        (b'{"text": "a"}\n{"text": "SECRET \\ud83d"}\n', "{name}:2: holds half of a surrogate pair"),
        (b'{"text": "a", "question": "SECRET \\udc00"}\n', "{name}:1: holds half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_named_by_its_line(
    tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "n.jsonl"
    lines.write_bytes(content)
    with pytest.raises(CorpusError) as refused:
        list(read_inputs(NER, [lines]))
    assert str(refused.value).startswith(message.format(name=lines)) and "SECRET" not in str(refused.value)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    with pytest.raises(CorpusError) as refused:
        list(read_inputs(NER, [], standard_input()))
    assert str(refused.value).startswith(message.format(name="standard input"))


def test_a_note_on_standard_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo \xff\n"), encoding="utf-8"))
    with pytest.raises(CorpusError, match="standard input:2: not UTF-8"):
        list(read_inputs(NER, [], standard_input()))


def test_whole_pairs_are_characters(tmp_path: Path) -> None:
    lines = tmp_path / "n.jsonl"
    lines.write_text('{"text": "\\ud83d\\ude00 é"}\n', encoding="utf-8")
    assert [record.text for record in read_inputs(NER, [lines])] == ["😀 é"]
