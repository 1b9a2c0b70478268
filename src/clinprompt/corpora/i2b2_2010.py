"""i2b2/VA 2010: concepts (.con), relations (.rel) and assertions (.ast) addressed by line and token.

``c="chest pain" 12:3 12:4||t="problem"``: line 12 (from 1), tokens 3 to 4 (from 0, inclusive) of the text file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from clinprompt.corpora.source import (
    SurfaceMismatchError,
    checked_entity,
    document_id,
    files_in,
    numbered_lines,
    read_text,
)
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation, Span

logger = logging.getLogger(__name__)

Mismatch = Literal["error", "skip"]

_CONCEPT = r'c="(.*)" ([0-9]{1,9}):([0-9]{1,9}) ([0-9]{1,9}):([0-9]{1,9})'
_CON = re.compile(rf'^{_CONCEPT}\|\|t="([^"]+)"\s*$')
_AST = re.compile(rf'^{_CONCEPT}\|\|t="([^"]+)"\|\|a="([^"]+)"\s*$')
_REL = re.compile(rf'^{_CONCEPT}\|\|r="([^"]+)"\|\|{_CONCEPT}\s*$')
_HEADS = {"Tr": "treatment", "Te": "test"}  # TrIP, TeRP, …: from treatment or test to problem; PIP: two problems
# Tokens are what spaces separate. Releases differ in whether other white space and empty tokens count.
_TOKENISERS = (re.compile(r"\S+"), re.compile(r"[^ \n\r]+"), re.compile(r"(?:(?<=^)|(?<= ))[^ \n\r]*"))


def read_i2b2_2010(folder: Path, *, assertions: bool = False, mismatch: Mismatch = "error") -> list[Record]:
    """One record per text: entity types problem, treatment, test; relations TrIP, TrWP, …, in the order of the file.

    .txt, .con, .rel and .ast files lie anywhere below `folder` and belong together by name. .con is required; .rel
    and .ast are read if the folder has any. Assertions (present, absent, …) are in `meta["assertions"]` (entity id →
    value); `assertions` True also writes them into the type: ``problem=absent``. Case of the quoted text is ignored
    (the release lower-cases it). `mismatch` as in `read_brat`. Raises CorpusError with file and line.
    """
    folder = Path(folder)
    by_kind = {suffix: _by_stem(folder, suffix) for suffix in (".txt", ".con", ".rel", ".ast")}
    if not by_kind[".con"]:
        raise CorpusError(folder, None, "no .con files here.", "Name the folder that holds the .txt and .con files.")
    orphans = sorted(by_kind[".con"].keys() - by_kind[".txt"].keys())
    if orphans:
        raise CorpusError(by_kind[".con"][orphans[0]], None, "has no .txt file of its name.", "Add the text.")
    records = []
    for stem, text_file in sorted(by_kind[".txt"].items()):
        files = {suffix: found.get(stem) for suffix, found in by_kind.items() if found}
        missing = [suffix for suffix, file in files.items() if file is None]
        if missing:
            problem = f"has no {missing[0]} file of its name, while other texts have one."
            raise CorpusError(text_file, None, problem, "Add it (an empty file means: none), or remove the text.")
        reader = _Reader(read_text(text_file), mismatch)
        records.append(reader.record(document_id(text_file, folder), files, assertions))
    return records


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files_in(folder, suffix):
        if path.stem in found:
            problem = f"another {suffix} file of this name lies in {found[path.stem].parent}."
            raise CorpusError(path, None, problem, "Read the folders one by one.")
        found[path.stem] = path
    return found


class _Reader:
    """The files of one document."""

    def __init__(self, text: str, mismatch: Mismatch) -> None:
        self.text, self.mismatch = text, mismatch
        self.lines: list[Span] = list(_line_spans(text))
        self.entities: dict[str, Entity] = {}
        self.by_place: dict[tuple[str, ...], list[str]] = {}
        self.skipped: set[tuple[str, ...]] = set()

    def record(self, record_id: str, files: dict[str, Path | None], refine: bool) -> Record:
        concepts, relations, assertions = (files.get(suffix) for suffix in (".con", ".rel", ".ast"))
        assert concepts is not None  # the caller has checked
        for line, match in _matches(concepts, _CON, 'c="text" 1:0 1:2||t="type"'):
            self._add(concepts, line, match)
        if self.skipped:
            logger.warning("%s: left out %d concepts whose offsets do not hold", concepts.name, len(self.skipped))
        values = self._assertions(assertions) if assertions is not None else {}
        links = self._relations(relations) if relations is not None else []
        entities = tuple(
            replace(e, type=f"{e.type}={values[e.id]}") if refine and e.id in values else e
            for e in self.entities.values()
        )
        meta = {"assertions": values} if values else {}
        return Record(record_id, self.text, entities=entities, relations=tuple(links), meta=meta)

    def _add(self, path: Path, line: int, match: re.Match[str]) -> None:
        quoted, place, kind = match[1], match.groups()[1:5], match[6]
        name = f"T{len(self.entities) + 1}"
        failure: SurfaceMismatchError | None = None
        for tokeniser in _TOKENISERS:
            try:
                span = self._span(path, line, place, tokeniser)
                entity = checked_entity(
                    path, line, self.text, id=name, type=kind, spans=[span], quoted=quoted, ignore_case=True
                )
            except SurfaceMismatchError as error:
                failure = failure or error
                continue
            self.entities[name] = entity
            self.by_place.setdefault(place, []).append(name)
            return
        if failure is not None and self.mismatch == "error":
            raise failure
        self.skipped.add(place)

    def _span(self, path: Path, line: int, place: tuple[str, ...], tokeniser: re.Pattern[str]) -> Span:
        first_line, first_token, last_line, last_token = (int(number) for number in place)
        start = self._token(path, line, first_line, first_token, tokeniser)[0]
        return start, self._token(path, line, last_line, last_token, tokeniser)[1]

    def _token(self, path: Path, line: int, row: int, index: int, tokeniser: re.Pattern[str]) -> Span:
        if not 1 <= row <= len(self.lines):
            problem = f"refers to line {row}, but the text has {len(self.lines)} lines."
            raise SurfaceMismatchError(path, line, problem, "Check that annotation and text belong together.")
        start, end = self.lines[row - 1]
        tokens = list(tokeniser.finditer(self.text[start:end]))
        if index >= len(tokens):
            problem = f"refers to token {row}:{index}, but that line has {len(tokens)} tokens."
            raise SurfaceMismatchError(path, line, problem, "Lines count from 1, tokens from 0.")
        if not tokens[index].group():  # two spaces in a row, where empty tokens count
            raise SurfaceMismatchError(path, line, f"token {row}:{index} is empty.", "Tokens count from 0.")
        return start + tokens[index].start(), start + tokens[index].end()

    def _find(self, path: Path, line: int, place: tuple[str, ...], kind: str) -> str | None:
        """The concept at a place; of several, the one of type `kind`. None if it was left out."""
        names = self.by_place.get(place, [])
        if not names and place not in self.skipped:
            where = f"{place[0]}:{place[1]} {place[2]}:{place[3]}"
            raise CorpusError(path, line, f"refers to {where}, where .con has no concept.", "Correct the reference.")
        fitting = [name for name in names if self.entities[name].type == kind]
        return next(iter(fitting or names), None)

    def _relations(self, path: Path) -> list[Relation]:
        relations: list[Relation] = []
        for line, match in _matches(path, _REL, 'c="text" 1:0 1:2||r="type"||c="text" 1:4 1:4'):
            kind = match[6]
            head = self._find(path, line, match.groups()[1:5], _HEADS.get(kind[:2], "problem"))
            tail = self._find(path, line, match.groups()[7:11], "problem")
            if head is not None and tail is not None:
                relations.append(Relation(kind, head, tail, f"R{len(relations) + 1}"))
        return relations

    def _assertions(self, path: Path) -> dict[str, str]:
        values = {}
        for line, match in _matches(path, _AST, 'c="text" 1:0 1:2||t="problem"||a="present"'):
            name = self._find(path, line, match.groups()[1:5], match[6])
            if name is not None:
                values[name] = match[7]
        return values


def _line_spans(text: str) -> Iterator[Span]:
    start = 0
    for line in text.split("\n"):
        yield start, start + len(line)
        start += len(line) + 1


def _matches(path: Path, pattern: re.Pattern[str], example: str) -> Iterator[tuple[int, re.Match[str]]]:
    for number, line in numbered_lines(read_text(path)):
        if not line.strip():
            continue
        match = pattern.match(line)
        if match is None:
            raise CorpusError(path, number, f"not a {path.suffix} line.", f"It reads {example}.")
        yield number, match
