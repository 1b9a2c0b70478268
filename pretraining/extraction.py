"""Extraction tasks made from raw text by rule: what to find is a word class, an ending, a shape, or several of them.

A *definition* says which spans of a text are mentions. Every mention is copied from the text and stands in its order;
no annotation is looked at. How a definition is announced (by an example word, by demonstrations, by a code) is decided
in `pretraining.selfsupervised`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pretraining.clusters import STOP, WORD, Class

Span = tuple[int, int]
AMBIGUOUS = re.compile(r"[;:|\\#\n]|\.\.\.")
"""Characters with a meaning in an answer; a mention with one of them is left out of the whole task."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of text with the offsets of its words."""

    text: str
    words: tuple[str, ...]
    spans: tuple[Span, ...]
    document: int


@dataclass(frozen=True, slots=True)
class Definition:
    """What to find. `names` are words that may announce it; `members` the words of its classes, if it has any."""

    key: str
    names: tuple[str, ...]
    find: Callable[[Window], list[Span]] = field(repr=False)
    members: frozenset[str] = frozenset()

    def mentions(self, window: Window) -> list[str] | None:
        """Surface forms in text order; None when one of them cannot be written down unambiguously."""
        found = [window.text[start:end] for start, end in self.find(window)]
        return None if any(AMBIGUOUS.search(m) or m == "none" for m in found) else found


def window_of(text: str, document: int = 0) -> Window:
    matches = list(WORD.finditer(text))
    return Window(
        text, tuple(m.group().lower() for m in matches), tuple((m.start(), m.end()) for m in matches), document
    )


def windows(text: str, document: int, draw: random.Random, least: int = 60, most: int = 420) -> Iterable[Window]:
    """Consecutive groups of one to three sentences of at most `most` characters together."""
    sentences = [s.strip() for s in re.split(r"(?<=[.!?])\s+(?=[A-Z(\"“])|\n", text)]
    group: list[str] = []
    wanted = draw.randint(1, 3)
    for sentence in sentences:
        if not sentence or len(sentence) > most:
            continue
        if group and (len(group) >= wanted or sum(map(len, group)) + len(sentence) > most):
            joined = " ".join(group)
            if len(joined) >= least:
                yield window_of(joined, document)
            group, wanted = [], draw.randint(1, 3)
        group.append(sentence)
    if group and len(" ".join(group)) >= least:
        yield window_of(" ".join(group), document)


def _adjacent(window: Window, i: int) -> bool:
    """One space, nothing else, separates word i from the one before it."""
    return window.text[window.spans[i - 1][1] : window.spans[i][0]] == " "


def find_class(members: frozenset[str], modifiers: frozenset[str], phrase: bool) -> Callable[[Window], list[Span]]:
    """Occurrences of `members`; as phrases, neighbouring members and up to three modifiers before them join in."""

    def find(window: Window) -> list[Span]:
        found: list[Span] = []
        i, last = 0, 0
        while i < len(window.words):
            if window.words[i] not in members:
                i += 1
                continue
            first = end = i
            if phrase:
                while end + 1 < len(window.words) and window.words[end + 1] in members and _adjacent(window, end + 1):
                    end += 1
                while (
                    first > last and i - first < 3 and _adjacent(window, first) and window.words[first - 1] in modifiers
                ):
                    first -= 1
            found.append((window.spans[first][0], window.spans[end][1]))
            i = last = end + 1
        return found

    return find


def find_pattern(pattern: str, flags: int = 0) -> Callable[[Window], list[Span]]:
    """Matches of a regular expression; its first group, if it has one."""
    compiled = re.compile(pattern, flags)

    def find(window: Window) -> list[Span]:
        return [m.span(1 if compiled.groups else 0) for m in compiled.finditer(window.text)]

    return find


SHAPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "quantity": (r"\b\d+(?:[.,]\d+)? ?(?:mg|g|kg|ml|mL|L|cm|mm|μg|mcg|mmol|mmHg|IU|U|nmol|pg|ng|dL|dl)\b(?:/\w+)?",
                 ("quantity", "measure", "10 mg")),
    "percent": (r"\b\d+(?:\.\d+)? ?%", ("percentage", "percent", "50%")),
    "duration": (r"\b(?:\d+|one|two|three|four|five|six|ten|twelve)"
                 r"[ -](?:seconds?|minutes?|hours?|days?|weeks?|months?|years?)\b",
                 ("duration", "time", "two weeks")),
    "age": (r"\b\d+[- ](?:year|month|week|day)s?[- ]olds?\b", ("age", "58-year-old")),
    "number": (r"(?<![\w.])\d+(?:\.\d+)?(?![\w%])", ("number", "numeral")),
    "abbreviation": (r"\b[A-Z]{2,6}s?\b", ("abbreviation", "acronym", "ABC")),
    "code": (r"\b[A-Za-z]+-?\d+[A-Za-z]*\b", ("code", "symbol", "p53")),
    "parenthesis": (r"\(([^()]{3,60})\)", ("parenthesis", "bracket", "aside")),
    "hyphenated": (r"\b[A-Za-z]{2,}(?:-[A-Za-z]{2,})+\b", ("compound", "hyphenated")),
    "capitalised": (r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", ("name", "capitalised")),
    "long": (r"\b[a-z]{13,}\b", ("long word",)),
    "first": (r"^([A-Z][\w-]*(?: [a-z][\w-]*){0,2})", ("start", "opening")),
    "p-value": (r"\b[pP] ?[<=>] ?0?\.\d+", ("p value", "significance")),
    "after-of": (r"\bof (?:the |a |an )?([a-z]{4,})\b", ("word after of",)),
    "after-the": (r"\bthe ([a-z]{4,})\b", ("word after the",)),
    "with-phrase": (r"\bwith (?:a |an |the )?((?:[a-z-]{3,} ){0,2}[a-z-]{4,})\b"
                    r"(?=[.,;)]| and\b| in\b| who\b)", ("with what",)),
    "treated-with": (r"\b(?:received|given|using|taking|treated with|administered) "
                     r"((?:[a-z-]{3,} )?[a-z-]{5,})\b", ("given what",)),
}  # fmt: skip
ENDINGS = (
    "itis", "osis", "oma", "emia", "pathy", "ectomy", "scopy", "graphy", "ine", "ol", "ide", "ate", "ase", "in",
    "one", "ic", "al", "ous", "ary", "tion", "sion", "ment", "ness", "ity", "ism", "ist", "ia", "sis", "gen",
    "cyte", "cytes", "therapy", "ing", "ed", "ly", "able", "ive", "ular", "cal", "cin", "mab", "pril", "statin",
    "azole", "plasty", "algia", "uria", "penia", "logy", "phil",
)  # fmt: skip
BEGINNINGS = (
    "anti", "hyper", "hypo", "inter", "intra", "pre", "post", "non", "micro", "neuro", "cardio", "hemo", "haemo",
    "immun", "lymph", "gastr", "hepat", "nephr", "ren", "pulmon", "bronch", "derm", "osteo", "arthr", "myo", "cyto",
    "onco", "carcin", "psych", "re", "un", "dis", "trans", "sub", "super", "poly", "mono", "endo", "epi", "peri",
    "thromb", "vas", "angi", "encephal", "tox",
)  # fmt: skip


def held_out(classes: list[Class]) -> list[Definition]:
    """Development tasks: never announced in training text, used to measure how well a prompt steers the model."""
    drugs = next((c for c in classes if c.grain == 200 and "ibuprofen" in c.members), classes[0])
    return [
        Definition("held-out:drug-class", ("drug",), find_class(drugs.members, frozenset(), False),
                   drugs.members),
        Definition("held-out:procedure", ("procedure",),
                   find_pattern(r"\b\w{2,}(?:ectom|otom|ostom|scop|plast|graph)(?:y|ies)\b", re.IGNORECASE)),
        Definition("held-out:dose", ("dose",), find_pattern(SHAPES["quantity"][0])),
    ]  # fmt: skip


def named(c: Class) -> bool:
    """Rather things than actions: at most a third of the words end like a verb or an adverb."""
    return 3 * sum(word.endswith(("ed", "ing", "ly")) for word in c.words) <= len(c.words)


def definitions(classes: list[Class], draw: random.Random) -> list[Definition]:
    """All definitions of the training mixture; whatever resembles a development task is left out."""
    kept = [c for c in classes if "ibuprofen" not in c.members and named(c)]
    fine = [c for c in kept if c.grain == 600]
    kept = [c for c in kept if c.grain != 600] + draw.sample(fine, min(120, len(fine)))
    made: list[Definition] = []
    for number, c in enumerate(kept):
        names = c.words[:6]
        made.append(Definition(f"class:{c.grain}:{number}", names, find_class(c.members, c.modifiers, True), c.members))
    for number in range(80):  # several classes under one name, as an annotation guideline would join them
        parts = draw.sample([c for c in kept if c.grain != 60], draw.randint(2, 3))
        members = frozenset().union(*(c.members for c in parts))
        modifiers = frozenset().union(*(c.modifiers for c in parts))
        names = (" or ".join(c.words[0] for c in parts),)
        made.append(Definition(f"union:{number}", names, find_class(members, modifiers, True), members))
    for name, (pattern, names) in SHAPES.items():
        if name != "quantity":
            made.append(Definition(f"shape:{name}", names, find_pattern(pattern)))
    for ending in ENDINGS:
        if ending not in ("ectomy", "scopy", "graphy", "plasty"):
            made.append(Definition(f"ending:{ending}", (f"-{ending}",), find_pattern(rf"\b\w{{2,}}{ending}\b")))
    for beginning in BEGINNINGS:
        pattern = rf"\b{beginning}\w{{3,}}\b"
        made.append(Definition(f"beginning:{beginning}", (f"{beginning}-",), find_pattern(pattern, re.IGNORECASE)))
    return made


def dense(draw: random.Random) -> Definition:
    """Many mentions per text: all words of a length, with a letter, or with a first or last letter.

    These teach to walk through a text and to copy what fits, before what fits is hard to tell.
    """
    letters = "abcdefghilmnoprstuvw"
    letter, size = draw.choice(letters), draw.randint(4, 9)
    kinds = {
        f"{size} letters or more": rf"\b[A-Za-z]{{{size},}}\b",
        f"starts with {letter}": rf"\b{letter}[a-z-]{{2,}}\b",
        f"ends with {letter}": rf"\b[a-z-]{{2,}}{letter}\b",
        f"has {letter}": rf"\b[a-z-]+{letter}[a-z-]+\b",
        "capital": r"\b[A-Z][\w-]+",
        "digit": r"\b\w*\d[\w.]*\b",
        "pairs": r"\b[a-z]{4,} [a-z]{4,}\b",
        "before comma": r"\b[\w-]+(?=,)",
        "after the": r"\bthe ([a-z-]{3,}(?: [a-z-]{5,})?)\b",
        "after of": r"\bof ([a-z-]{3,}(?: [a-z-]{5,})?)\b",
        "after a": r"\ban? ([a-z-]{3,}(?: [a-z-]{5,})?)\b",
        "after and": r"\b(?:and|or) ([a-z-]{3,}(?: [a-z-]{5,})?)\b",
    }
    name = draw.choice(list(kinds))
    return Definition(f"dense:{name}", (name,), find_pattern(kinds[name]))


def index(all_windows: list[Window], defined: list[Definition], most: int = 600) -> dict[str, list[int]]:
    """For each definition the numbers of up to `most` windows that hold a mention of it."""
    by_word: dict[str, list[int]] = {}
    for number, window in enumerate(all_windows):
        for word in set(window.words) - STOP:
            by_word.setdefault(word, []).append(number)
    found: dict[str, list[int]] = {}
    for definition in defined:
        if definition.members:
            places = sorted({n for word in definition.members for n in by_word.get(word, ())[:most]})
            found[definition.key] = places[:: max(1, len(places) // most)][:most]
        else:
            sample = range(min(len(all_windows), 12000))
            found[definition.key] = [n for n in sample if definition.find(all_windows[n])][:most]
    return found
