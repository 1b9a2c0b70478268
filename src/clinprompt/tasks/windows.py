"""Sentences with offsets, and windows that tile a text without exceeding a token budget (our own rules).

Windows are half-open spans of the original text; together they cover it once, in order. Borders stand between
sentences where that is possible, then at white space, and inside a word only when one word exceeds the budget.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

from clinprompt.records import Span

Fits = Callable[[int, int], bool]
"""Whether the text between two offsets may be shown in one window."""

_ABBREVIATIONS = (
    " dr mr mrs ms prof st sr jr vs e.g i.e eg ie etc al fig figs no nos approx ca cf resp incl ref refs vol ed eds "
    "dept b.i.d t.i.d q.i.d q.d q.h q.h.s p.o p.r.n i.v i.m s.c s.l a.m p.m pt pts hx dx rx tx sx w.r.t sp spp var "
    "subsp inc ltd co corp jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun temp tab tabs "
    "cap caps inj min max avg est wt ht u.s u.k ph.d m.d sec eq eqs biol chem "
)
_STOP = re.compile(r"[.!?。！？]+[\"'”’)\]]*(\s+)|\n")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]*$")
_NEW_ITEM = re.compile(r"[ \t]*(?:[-*•–·▪►]|\(?\d{1,3}[.)]|[A-Z][A-Za-z0-9 /&'-]{0,40}:)")
_SHORT_LINE = 50
_SPACES = re.compile(r"\s+")


def sentences(text: str) -> list[Span]:
    """Spans that tile `text`, one per sentence; white space after a sentence belongs to it.

    A full stop ends a sentence unless it follows an abbreviation or an initial, or a lower-case word follows. A line
    break ends one when a blank line, a list item or a heading follows, when the line ended in punctuation, or when it
    was too short to have been wrapped.
    """
    borders = [0]
    for match in _STOP.finditer(text):
        end = match.end()
        is_border = _ends_line(text, match.start()) if match.group() == "\n" else _ends_sentence(text, match)
        if is_border:
            while end < len(text) and text[end].isspace():
                end += 1
            if borders[-1] < end < len(text) and text[borders[-1] : end].strip():
                borders.append(end)
    return list(zip(borders, [*borders[1:], len(text)], strict=True)) if text else []


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    gap = match.group(1)
    if "\n" in gap:
        return gap.count("\n") > 1 or text[match.end() : match.end() + 1] == "" or not text[match.end()].islower()
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    found = _LAST_WORD.search(text, max(0, match.start() - 40), match.start())
    word = found.group() if found else ""
    if match.group().startswith(".") and not match.group().startswith(".."):
        initial = len(word) == 1 and word.isalpha() and word.isupper()
        line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        is_list_number = word.isdigit() and len(word) <= 3 and line.strip() == word
        return not initial and not is_list_number and f" {word.lower()} " not in _ABBREVIATIONS
    return True


def _ends_line(text: str, newline: int) -> bool:
    line = text[text.rfind("\n", 0, newline) + 1 : newline].rstrip()
    rest = text[newline + 1 : newline + 60]
    if not line or not rest.split("\n", 1)[0].strip():
        return True
    is_unwrapped = len(line) < _SHORT_LINE and not rest.lstrip()[:1].islower()
    return line[-1] in ".!?:;" or is_unwrapped or bool(_NEW_ITEM.match(rest))


def whitespace_borders(text: str) -> list[int]:
    """Every offset at which a word begins after white space."""
    return [match.end() for match in _SPACES.finditer(text) if match.end() < len(text)]


def outside(borders: Iterable[int], protected: Sequence[Span]) -> list[int]:
    """The borders that cut none of the protected spans."""
    ordered = sorted(set(borders))
    allowed = [True] * len(ordered)
    for start, end in protected:
        for index in range(bisect_right(ordered, start), bisect_left(ordered, end)):
            allowed[index] = False
    return [border for border, keep in zip(ordered, allowed, strict=True) if keep]


def tile(size: int, levels: Sequence[Sequence[int]], fits: Fits) -> list[Span]:
    """Windows that tile ``[0, size)``: packed greedily between the borders of the first level; what still does not
    fit is divided at the borders of the next level, and after the last level anywhere.

    `levels` are sorted offsets. A window of one character is returned even if `fits` refuses it.
    """
    return _divide(0, size, levels, fits) if size else [(0, 0)]


def _divide(start: int, end: int, levels: Sequence[Sequence[int]], fits: Fits) -> list[Span]:
    if fits(start, end) or end - start <= 1:
        return [(start, end)]
    if levels:
        ends: Sequence[int] = [*levels[0][bisect_right(levels[0], start) : bisect_left(levels[0], end)], end]
        deeper = levels[1:]
    else:
        ends, deeper = range(start + 1, end + 1), ()
    windows, index = [], 0
    while index < len(ends):
        reach = _furthest(start, ends, index, fits)
        if reach < index:  # not even one unit fits
            divisible = bool(levels)
            windows += _divide(start, ends[index], deeper, fits) if divisible else [(start, ends[index])]
            reach = index
        else:
            windows.append((start, ends[reach]))
        start, index = ends[reach], reach + 1
    return windows


def _furthest(start: int, ends: Sequence[int], first: int, fits: Fits) -> int:
    """The last index whose end still fits, found by galloping and bisection; ``first - 1`` if none does."""
    good, step = first - 1, 1
    while good + step < len(ends) and fits(start, ends[good + step]):
        good += step
        step *= 2
    bad = min(good + step, len(ends))
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(start, ends[middle]):
            good = middle
        else:
            bad = middle
    return good


def windows(text: str, fits: Fits, *, whole: Sequence[Span] = (), together: Sequence[Span] = ()) -> list[Span]:
    """Windows of a text. No border falls into a span of `whole` (gold entities) unless the span alone exceeds the
    window; `together` (a relation with both its arguments) is kept in one window where that is possible.
    """
    if fits(0, len(text)):
        return [(0, len(text))]
    between = [start for start, _ in sentences(text)][1:]
    spaces = whitespace_borders(text)
    levels = [outside(between, [*whole, *together]), outside(between, whole), outside(spaces, whole), spaces]
    return tile(len(text), levels if together else levels[1:], fits)


def shorten(text: str, fits: Callable[[str], bool], *, keep: str) -> str:
    """The longest part of `text` that fits, cut at white space: its beginning (`keep` = "start") or end ("end")."""
    if fits(text):
        return text
    cuts = [0, *whitespace_borders(text), len(text)]
    if keep == "end":
        pieces = [text[cut:] for cut in reversed(cuts)]
    else:
        pieces = [text[:cut].rstrip() for cut in cuts]
    low, high = 0, len(pieces) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(pieces[middle]) else (low, middle)
    return pieces[low]
