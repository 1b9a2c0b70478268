"""Extraction definitions that look like an annotator's guideline: whole phrases, term lists, and both together.

The classes of `pretraining.extraction` are mostly single words. Clinical entities are phrases ("chronic kidney
disease", "X-linked hypophosphatemia"), so three further kinds of rule find spans of several words:

*heads*       a head noun with the unbroken run of content words before it ("… syndrome", "… receptor");
*terms*       names that a text collection lists of itself: what MedQuAD's questions are about;
*guidelines*  a list of heads, endings and terms under one of several names, the longest match first.

No annotation of a source or target task is looked at.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pretraining.clusters import STOP
from pretraining.corpus import Document
from pretraining.extraction import Definition, Span, Window, _adjacent

Finder = Callable[[Window], list[Span]]
LISTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
WEAK = frozenset(LISTS["weak"].split())

ABOUT = re.compile(
    r"^(?:What (?:is|are) \((?:is|are)\)|What (?:is|are)(?: the (?:symptoms|treatments|genetic changes|stages|outlook|"
    r"complications|causes)(?: \w+)*? (?:of|for|to))?|What causes|How to (?:diagnose|prevent)|"
    r"Who is at risk for|Is|How many people are affected by|Do you have information about) (.+?)"
    r"(?: inherited)?\s*\?$"
)


def runs(heads: Iterable[str], longest: int = 5) -> Finder:
    """Each head word with the content words straight before it, at most `longest` words in all."""
    wanted = frozenset(heads)

    def find(window: Window) -> list[Span]:
        found, last = [], 0
        for i, word in enumerate(window.words):
            if word not in wanted or (i + 1 < len(window.words) and window.words[i + 1] in wanted):
                continue
            first = i
            while first > last and i - first < longest - 1 and _joins(window, first):
                first -= 1
            while first < i and window.words[first] in WEAK:
                first += 1
            found.append((window.spans[first][0], window.spans[i][1]))
            last = i + 1
        return found

    return find


def _joins(window: Window, i: int) -> bool:
    """The word before word i is a content word and only a space lies between."""
    before = window.words[i - 1]
    return _adjacent(window, i) and before not in STOP and before[0].isalpha() and not before.endswith("ly")


def terms(names: Iterable[str]) -> Finder:
    """The longest of the given names at each place, in words; letters' case does not matter."""
    trie: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        words = tuple(re.findall(r"[^\W_]+|[^\w\s]", name.lower()))
        if words:
            trie.setdefault(words[0], []).append(words)
    for options in trie.values():
        options.sort(key=len, reverse=True)

    def find(window: Window) -> list[Span]:
        pieces = list(re.finditer(r"[^\W_]+|[^\w\s]", window.text.lower()))
        found, i = [], 0
        while i < len(pieces):
            match = next(
                (w for w in trie.get(pieces[i].group(), ()) if tuple(p.group() for p in pieces[i : i + len(w)]) == w),
                None,
            )
            if match:
                found.append((pieces[i].start(), pieces[i + len(match) - 1].end()))
            i += len(match) if match else 1
        return found

    return find


def ending(endings: Sequence[str]) -> Finder:
    """Single words with one of the endings."""
    pattern = re.compile(rf"\b[A-Za-z][a-z-]{{2,}}(?:{'|'.join(endings)})\b")
    return lambda window: [m.span() for m in pattern.finditer(window.text)]


def longest_of(finders: Sequence[Finder]) -> Finder:
    """All spans of the finders; where they overlap, the longer one."""

    def find(window: Window) -> list[Span]:
        spans = {span for finder in finders for span in finder(window)}
        kept: list[Span] = []
        for start, end in sorted(spans, key=lambda s: (s[0] - s[1], s[0])):
            if all(end <= a or start >= b for a, b in kept):
                kept.append((start, end))
        return sorted(kept)

    return find


def topics(documents: Iterable[Document]) -> list[str]:
    """What the questions of the collection are about: the names of conditions in MedQuAD's question titles."""
    counts: Counter[str] = Counter()
    for document in documents:
        match = ABOUT.match(document.question)
        if match and document.source == "medquad":
            name = re.sub(r"\s*\(.*?\)|^(?:a|an|the) ", "", match.group(1).strip()).lower()
            if 4 < len(name) <= 60 and 1 <= len(name.split()) <= 7 and name not in STOP:
                counts[name] += 1
    return sorted(name for name in counts if " " in name or counts[name] >= 2)


@dataclass(frozen=True, slots=True)
class Noun:
    """A head noun and how often it ends a phrase of several words."""

    word: str
    count: int


def head_nouns(windows: Sequence[Window], most: int = 400) -> list[Noun]:
    """Frequent words that mostly stand at the end of a run of content words, as nouns that are modified do."""
    ends: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    for window in windows:
        for i, word in enumerate(window.words):
            if word in STOP or len(word) < 4 or not word.isalpha():
                continue
            last = i + 1 == len(window.words) or window.words[i + 1] in STOP or not window.words[i + 1][0].isalpha()
            if last and i and _joins(window, i):
                ends[word] += 1
            elif not last:
                inner[word] += 1
    nouns = [Noun(w, n) for w, n in ends.most_common() if n >= 2 * inner[w] and not w.endswith(("ed", "ing", "ly"))]
    return nouns[:most]


def guideline_definitions(
    documents: Sequence[Document], windows: Sequence[Window], draw: random.Random
) -> list[Definition]:
    """Single heads, unions of heads, the term list, and the guidelines."""
    nouns = [noun.word for noun in head_nouns(windows[:30000])]
    names = topics(documents)
    made = [Definition(f"head:{word}", (word,), runs([word]), frozenset([word])) for word in nouns]
    for number in range(120):
        heads = draw.sample(nouns, draw.randint(2, 5))
        made.append(Definition(f"heads:{number}", (" or ".join(heads[:2]),), runs(heads), frozenset(heads)))
    for key, listed in LISTS["guidelines"].items():
        labels, heads = tuple(listed["names"]), listed["heads"].split()
        finders = [runs(heads)] + ([ending(listed["endings"])] if listed["endings"] else [])
        made.append(Definition(f"guideline:{key}:heads", labels, longest_of(finders)))
        if key == "condition":
            made += condition_terms(names, labels, finders)
    return made


def condition_terms(names: Sequence[str], labels: tuple[str, ...], finders: Sequence[Finder]) -> list[Definition]:
    """The term list alone, in parts by its last word, and joined with the guideline of conditions."""
    known = terms(names)
    made = [
        Definition("terms:topics", labels, known),
        Definition("guideline:condition:all", labels, longest_of([*finders, known])),
    ]
    for tail in ("syndrome", "deficiency", "cancer", "disease", "disorder"):
        made.append(Definition(f"terms:{tail}", (tail,), terms([name for name in names if name.endswith(tail)])))
    return made
