"""Generated mentions are located in the text they were generated from, or declared ungrounded.

The rule (ours): mentions of a list are read in order. A mention stands at its next occurrence, counted from the start
of the mention before it; an occurrence bounded by word borders is preferred to one inside a word, and one after the
cursor to one before it. A place that the same type already holds is not taken twice. A fragment with ``#k`` stands at
its k-th occurrence in the window, wherever the cursor is. White space matches white space of any kind and length;
upper and lower case are told apart unless the mention occurs only in another case.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from clinprompt.records import Span
from clinprompt.tasks.surface import normalise

Spans = tuple[Span, ...]


@lru_cache(maxsize=4096)
def _pattern(mention: str, ignore_case: bool) -> re.Pattern[str]:
    body = r"\s+".join(re.escape(word) for word in mention.split(" "))
    return re.compile(f"(?=({body}))", re.IGNORECASE if ignore_case else 0)


def _is_bounded(text: str, start: int, end: int) -> bool:
    glued_left = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
    glued_right = end < len(text) and text[end - 1].isalnum() and text[end].isalnum()
    return not glued_left and not glued_right


@dataclass(slots=True)
class Grounder:
    """Locates mentions in one window; offsets are those of `text`."""

    text: str
    _known: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    _bounded: dict[str, tuple[Span, ...]] = field(default_factory=dict)

    def occurrences(self, mention: str) -> tuple[Span, ...]:
        """Every place (overlapping ones too) where a normalised mention stands, in text order."""
        if mention not in self._known:
            self._known[mention] = self._search(mention)
        return self._known[mention]

    def _search(self, mention: str) -> tuple[Span, ...]:
        if not mention or len(mention) > len(self.text):
            return ()
        for ignore_case in (False, True):
            if found := tuple(match.span(1) for match in _pattern(mention, ignore_case).finditer(self.text)):
                return found
        return ()

    def bounded(self, mention: str) -> tuple[Span, ...]:
        """The occurrences that begin and end at word borders."""
        if mention not in self._bounded:
            found = self.occurrences(mention)
            self._bounded[mention] = tuple(span for span in found if _is_bounded(self.text, *span))
        return self._bounded[mention]

    def locate(
        self, parts: Sequence[tuple[str, int | None]], *, cursor: int = 0, taken: Container[Spans] = ()
    ) -> Spans | None:
        """Spans of a mention given as (fragment, occurrence number or None); None if it is not in the text."""
        if not parts:
            return None
        for first in self._in_order(*parts[0], cursor):
            spans = self._continue(first, parts[1:])
            if spans is not None and spans not in taken:
                return spans
        return None

    def _in_order(self, mention: str, number: int | None, cursor: int) -> Iterator[Span]:
        plain = self.occurrences(mention)
        if number is not None:
            yield from plain[number - 1 : number] if number > 0 else ()
            return
        for found in (self.bounded(mention), plain):
            yield from (span for span in found if span[0] >= cursor)
            yield from (span for span in found if span[0] < cursor)

    def _continue(self, first: Span, rest: Sequence[tuple[str, int | None]]) -> Spans | None:
        spans = [first]
        for mention, number in rest:
            plain = self.occurrences(mention)
            pools = (
                (self.bounded(mention), plain) if number is None else (plain[number - 1 : number] if number else (),)
            )
            following = next((span for pool in pools for span in pool if span[0] >= spans[-1][1]), None)
            if following is None:
                return None
            spans.append(following)
        return tuple(spans)

    def number_of(self, span: Span) -> int | None:
        """The ``#k`` of a span of the text; None if its text cannot be found there (white space at its ends)."""
        found = self.occurrences(normalise(self.text[span[0] : span[1]]))
        return found.index(span) + 1 if span in found else None


def trimmed(text: str, spans: Spans) -> Spans | None:
    """The spans without white space at their ends; None if nothing is left."""
    kept = []
    for start, end in spans:
        surface = text[start:end]
        start, end = start + len(surface) - len(surface.lstrip()), end - len(surface) + len(surface.rstrip())
        if start < end:
            kept.append((start, end))
    return tuple(kept) or None
