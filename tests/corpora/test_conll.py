"""CoNLL columns: all tag schemes against one independent statement of the mentions, and broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinprompt.corpora.conll import read_conll
from clinprompt.errors import CorpusError
from clinprompt.records import Record

TOKENS = ["severe", "chest", "pain", "cough", "and", "aspirin", "rash"]
# One annotation, two adjacent mentions of one type included: [severe chest pain]P [cough]P and [aspirin]D [rash]P
SCHEMES = {
    "IOB2": ["B-P", "I-P", "I-P", "B-P", "O", "B-D", "B-P"],
    "IOB1": ["I-P", "I-P", "I-P", "B-P", "O", "I-D", "I-P"],
    "IOBES": ["B-P", "I-P", "E-P", "S-P", "O", "S-D", "S-P"],
    "BIOLU": ["B-P", "I-P", "L-P", "U-P", "O", "U-D", "U-P"],
    "BMES": ["B-P", "M-P", "E-P", "S-P", "O", "S-D", "S-P"],
    "underscore": ["B_P", "I_P", "I_P", "B_P", "O", "B_D", "B_P"],
}


def read(folder: Path, content: str, **options: object) -> list[Record]:
    path = folder / "notes.tsv"
    path.write_bytes(content.encode())
    return read_conll(path, **options)  # type: ignore[arg-type]


def mentions(record: Record) -> list[tuple[str, str]]:
    return [(e.type, e.text_in(record.text)) for e in record.entities]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_scheme_reads_the_same(tmp_path: Path, scheme: str, newline: str) -> None:
    rows = newline.join(f"{token}\t{tag}" for token, tag in zip(TOKENS, SCHEMES[scheme], strict=True))
    (record,) = read(tmp_path, rows)
    assert record.text == "severe chest pain cough and aspirin rash"
    assert mentions(record) == [("P", "severe chest pain"), ("P", "cough"), ("D", "aspirin"), ("P", "rash")]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O I-P I-P", [("P", "b c")]),  # inside without begin: starts a mention
        ("B-P I-D O", [("P", "a"), ("D", "b")]),  # change of type: starts a mention
        ("E-P E-P O", [("P", "a"), ("P", "b")]),  # an end closes, whatever came before
        ("S-P I-P O", [("P", "a"), ("P", "b")]),
        ("P P D", [("P", "a b"), ("D", "c")]),  # bare tags: runs
        ("B I O", [("Entity", "a b")]),  # letters without type
        ("O O O", []),
    ],
)
def test_odd_sequences(tmp_path: Path, tags: str, expected: list[tuple[str, str]]) -> None:
    rows = "\n".join(f"{token} {tag}" for token, tag in zip("abc", tags.split(), strict=True))
    assert mentions(read(tmp_path, rows)[0]) == expected


def test_type_for_untyped_letters(tmp_path: Path) -> None:
    assert mentions(read(tmp_path, "x\tB\ny\tI\n", entity_type="Disease")[0]) == [("Disease", "x y")]


DOCUMENTS = """# a comment
-DOCSTART- -X- O O

a NN x B-P
b NN x O

# another
c NN x B-D

-DOCSTART- second O O

#\tNN\tx\tO
d\tNN\tx\tI-P
"""


def test_documents_and_comments(tmp_path: Path) -> None:
    sentences = read(tmp_path, DOCUMENTS)
    assert [(r.id, r.text, r.group) for r in sentences] == [
        ("notes:1", "a b", "notes:document-1"),
        ("notes:2", "c", "notes:document-1"),
        ("notes:3", "# d", "notes:second"),  # a hash with a tag is a token
    ]
    first, second = read(tmp_path, DOCUMENTS, unit="document")
    assert (first.id, first.text, mentions(first)) == ("notes:1", "a b\nc", [("P", "a"), ("D", "c")])
    assert (second.id, second.text, mentions(second)) == ("second", "# d", [("P", "d")])


def test_whole_file_is_a_document_where_none_is_marked(tmp_path: Path) -> None:
    (record,) = read(tmp_path, "a O\n\n \nb B-P\n", unit="document")
    assert (record.text, mentions(record)) == ("a\nb", [("P", "b")])
    assert [r.group for r in read(tmp_path, "a O\n\nb B-P\n")] == ["", ""]


def test_columns_and_delimiter(tmp_path: Path) -> None:
    (record,) = read(tmp_path, "B-P|7|New York\nO|8|is\n", delimiter="|", tag_column=0, token_column=2)
    assert mentions(record) == [("P", "New York")]
    assert record.text == "New York is"


def test_tokens_keep_unicode_spaces(tmp_path: Path) -> None:
    (record,) = read(tmp_path, "a\u2028b\tB-P\nc\u00a0d\tI-P\n")
    assert mentions(record) == [("P", "a\u2028b c\u00a0d")]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("a\tO\nb\tx\tO\n", 2, "3 columns, the first row has 2"),
        ("a\tO\nb\n", 2, "1 columns, the first row has 2"),
        ("a\n", 1, "tag and token are the same"),
        ("a\tB-P\nb\tDisease\n", 2, "bare tag"),
        ("a\tB-P\n\nb\tB\n", 3, "letter tag"),
        ("a\tO\n \tO\n", 2, "token is empty"),
        ("a\tO\nb\t\n", 2, "tag is empty"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, content: str, line: int, problem: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read(tmp_path, content)
    assert problem in caught.value.problem and caught.value.line == line and caught.value.cure


def test_missing_column(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no column 5") as caught:
        read(tmp_path, "a\tO\n", tag_column=5)
    assert "tag_column" in caught.value.cure


def test_empty_file_has_no_records(tmp_path: Path) -> None:
    assert read(tmp_path, "\n\n") == []
