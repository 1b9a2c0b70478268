"""CoNLL-style columns: one token a line, an empty line between sentences, a tag per token.

Read as one scheme: IOB1, IOB2, IOBES, BIOES, BIOLU and BMES differ only in letters. An inside tag that continues
nothing of its type starts a new mention (legal in IOB1, and what conlleval does with the mistake in IOB2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clinprompt.corpora.source import numbered_lines, read_text
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Span

_PREFIXED = re.compile(r"^([BIMELSU])[-_](.+)$")
_LETTERS = frozenset("BIMELSU")
_STARTS, _ENDS = frozenset("BSU"), frozenset("ELSU")
_DOCUMENT = "-DOCSTART-"
_NEWDOC = re.compile(r"#\s*newdoc\b")


@dataclass(slots=True)
class _Sentence:
    document: int
    line: int
    tokens: list[str] = field(default_factory=list)
    tags: list[tuple[int, str]] = field(default_factory=list)  # (line, tag)


def read_conll(
    path: Path,
    *,
    tag_column: int = -1,
    token_column: int = 0,
    delimiter: str | None = None,
    unit: Literal["sentence", "document"] = "sentence",
    entity_type: str = "Entity",
    encoding: str = "utf-8",
) -> list[Record]:
    """One record per sentence, or per document (`-DOCSTART-` or `# newdoc` begins one; else the file is one).

    The text is rebuilt: tokens joined by one space, sentences of a document by a line feed; offsets refer to it.
    `delimiter` None splits at tabs where a line has one, else at white space. Tags without prefix ("Disease") are read
    as runs of equal tags; tags without type ("B", "I") get `entity_type`. A line starting with `#` is a comment
    unless it is a token row (same number of columns, and a tag in the tag column).
    Record ids are ``<file stem>:<n>`` from 1, or a document's own (``-DOCSTART-<TAB>id``, ``# newdoc id = …``);
    `group` is the sentence's document where the file marks documents.
    Raises CorpusError with the line for rows with another number of columns than the first, and for mixed tag styles.
    """
    path = Path(path)
    sentences, documents = _sentences(path, read_text(path, encoding), token_column, tag_column, delimiter)
    decode = _tag_style(path, sentences, entity_type)
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    if unit == "document":
        return [
            _record(documents.get(batch[0].document) or f"{stem}:{n}", "", batch, decode)
            for n, batch in enumerate(_by_document(sentences), start=1)
        ]
    groups = {number: f"{stem}:{name or f'document-{number}'}" for number, name in documents.items()}
    return [
        _record(f"{stem}:{n}", groups.get(sentence.document, ""), [sentence], decode)
        for n, sentence in enumerate(sentences, start=1)
    ]


def _sentences(
    path: Path, text: str, token_column: int, tag_column: int, delimiter: str | None
) -> tuple[list[_Sentence], dict[int, str]]:
    """The sentences, and the documents that the file marks: number → id ("" if it gives none)."""
    sentences: list[_Sentence] = []
    current: _Sentence | None = None
    documents: dict[int, str] = {}
    width = 0
    for number, line in numbered_lines(text):
        if not line.strip():
            current = None
            continue
        columns = _split(line, delimiter)
        if columns[0] == _DOCUMENT or _NEWDOC.match(line):
            documents[len(documents) + 1] = _document_name(columns, line)
            current = None
            continue
        if line.startswith("#") and not _is_row(columns, width, tag_column):
            continue
        width = width or len(columns)
        _check_width(path, number, columns, width, token_column, tag_column)
        if current is None:
            current = _Sentence(len(documents), number)
            sentences.append(current)
        current.tokens.append(_token(path, number, columns[token_column]))
        current.tags.append((number, columns[tag_column].strip()))
    return sentences, documents


def _document_name(columns: Sequence[str], line: str) -> str:
    """``-DOCSTART-<TAB>id`` as our writer has it, or ``# newdoc id = name`` of CoNLL-U; "" for CoNLL-2003's ``-X-``."""
    if columns[0] == _DOCUMENT:
        name = columns[1].strip() if len(columns) > 1 else ""
        return "" if name in ("-X-", "O") else name
    return line.partition("=")[2].strip()


def _split(line: str, delimiter: str | None) -> list[str]:
    if delimiter is not None:
        return line.split(delimiter)
    return line.split("\t") if "\t" in line else line.split()


def _is_row(columns: Sequence[str], width: int, tag_column: int) -> bool:
    if len(columns) < 2 or (width and len(columns) != width) or not -len(columns) <= tag_column < len(columns):
        return False
    tag = columns[tag_column].strip()
    return tag == "O" or tag in _LETTERS or bool(_PREFIXED.match(tag))


def _check_width(path: Path, line: int, columns: Sequence[str], width: int, token: int, tag: int) -> None:
    if len(columns) != width:
        problem = f"row has {len(columns)} columns, the first row has {width}."
        raise CorpusError(path, line, problem, "Check the delimiter (reader option `delimiter`), or repair the row.")
    for name, index in (("token_column", token), ("tag_column", tag)):
        if not -width <= index < width:
            raise CorpusError(path, line, f"there is no column {index}; rows have {width}.", f"Correct `{name}`.")
    if token % width == tag % width:
        raise CorpusError(path, line, f"rows have {width} column(s): tag and token are the same.", "Set `tag_column`.")


def _token(path: Path, line: int, token: str) -> str:
    if not token.strip():
        raise CorpusError(path, line, "the token is empty.", "Remove the row, or check `token_column`.")
    return token


def _tag_style(path: Path, sentences: list[_Sentence], entity_type: str) -> _Decoder:
    """Prefixed, letters only, or bare; decided over the whole file so that one odd tag is found, not guessed at."""
    first: dict[str, int] = {}
    for sentence in sentences:
        for line, tag in sentence.tags:
            if not tag:
                raise CorpusError(path, line, "the tag is empty.", "Write O for tokens outside any mention.")
            if tag != "O":
                style = "prefixed" if _PREFIXED.match(tag) else "letter" if tag in _LETTERS else "bare"
                first.setdefault(style, line)
    if len(first) > 1:
        late = max(first, key=lambda style: first[style])
        problem = f"a {late} tag, while the file also has {', '.join(sorted(set(first) - {late}))} tags."
        raise CorpusError(path, first[late], problem, "Use one style: B-Type and I-Type; B and I; or Type alone.")
    return _Decoder(next(iter(first), "prefixed"), entity_type)


@dataclass(frozen=True, slots=True)
class _Decoder:
    style: str
    entity_type: str

    def __call__(self, tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
        """(first token, one past the last, type) of each mention."""
        start, kind = -1, ""
        for index, tag in enumerate(tags):
            letter, own = self._read(tag)
            if start >= 0 and (not own or own != kind or letter in _STARTS):
                yield start, index, kind
                start = -1
            if own and start < 0:
                start, kind = index, own
            if start >= 0 and letter in _ENDS:
                yield start, index + 1, kind
                start = -1
        if start >= 0:
            yield start, len(tags), kind

    def _read(self, tag: str) -> tuple[str, str]:
        if tag == "O":
            return "O", ""
        if self.style == "bare":
            return "I", tag
        if self.style == "letter":
            return tag, self.entity_type
        match = _PREFIXED.match(tag)
        assert match is not None  # _tag_style has seen every tag
        return match[1], match[2]


def _by_document(sentences: list[_Sentence]) -> list[list[_Sentence]]:
    documents: dict[int, list[_Sentence]] = {}
    for sentence in sentences:
        documents.setdefault(sentence.document, []).append(sentence)
    return list(documents.values())


def _record(record_id: str, group: str, sentences: list[_Sentence], decode: _Decoder) -> Record:
    lines: list[str] = []
    found: list[tuple[Span, str]] = []
    offset = 0
    for sentence in sentences:
        starts, position = [], offset
        for token in sentence.tokens:
            starts.append(position)
            position += len(token) + 1
        for first, last, kind in decode([tag for _, tag in sentence.tags]):
            found.append(((starts[first], starts[last - 1] + len(sentence.tokens[last - 1])), kind))
        lines.append(" ".join(sentence.tokens))
        offset = position
    entities = tuple(Entity(f"T{n}", kind, (span,)) for n, (span, kind) in enumerate(found, start=1))
    return Record(record_id, "\n".join(lines), entities=entities, group=group)
