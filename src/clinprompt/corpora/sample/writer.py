"""The writer of one synthetic record: chooses words for the slots of a template and remembers where they landed.

A template is a sentence with slots, ``Started on {drug} {dose} {frequency} for {reason}.`` A slot's name is its kind,
with a number where a kind occurs more than once (``{drug2}``); slots of one number belong together, so that ``{dose2}``
is a dose of ``{drug2}``. The same slot twice is the same word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from clinprompt.corpora.sample import drugs, labs, terms
from clinprompt.corpora.sample.words import HELD_OUT_SHARE, Lexicon, Split
from clinprompt.records import Entity

_SLOT = re.compile(r"\{([a-z_]+?)(\d*)\}")
_MEN = re.compile(r"prostat|testic|erectile|urine stream|vasectomy|PSA|testosterone|hair loss", re.IGNORECASE)
_WOMEN = re.compile(
    r"ovar|uter|cervical cancer|cervix|endometri|vagin|menstru|preeclamp|hysterec|cesarean|breast|mammogra|mastectomy"
    r"|lumpectomy|hot flashes|nipple|CA-125|pelvic ultrasound",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Slot:
    """A filled slot: its name (kind and number), the word chosen, and where it stands in the text, half-open."""

    name: str
    word: str
    start: int
    end: int


@dataclass(frozen=True)
class Passage:
    """Text and the slots filled in it, in order."""

    text: str
    slots: tuple[Slot, ...] = ()

    def __add__(self, other: Passage) -> Passage:
        """Both passages with a space between them, the second one's slots moved along."""
        if not self.text:
            return other
        by = len(self.text) + 1
        moved = tuple(replace(slot, start=slot.start + by, end=slot.end + by) for slot in other.slots)
        return Passage(f"{self.text} {other.text}", self.slots + moved)

    def entities(self, types: Mapping[str, str]) -> tuple[Entity, ...]:
        """An entity for every slot whose kind (or full name) has a type; the identifiers count from T1."""
        wanted = [(slot, types.get(slot.name, types.get(kind_of(slot.name), ""))) for slot in self.slots]
        chosen = [(slot, label) for slot, label in wanted if label]
        return tuple(
            Entity(f"T{number}", label, ((slot.start, slot.end),)) for number, (slot, label) in enumerate(chosen, 1)
        )

    def marked(self, types: Mapping[str, str]) -> dict[str, list[str]]:
        """Slot name → identifiers that `entities` gives to its mentions."""
        found: dict[str, list[str]] = {}
        chosen = [slot for slot in self.slots if slot.name in types or kind_of(slot.name) in types]
        for number, slot in enumerate(chosen, 1):
            found.setdefault(slot.name, []).append(f"T{number}")
        return found


def kind_of(slot: str) -> str:
    """A slot's name without its number."""
    return slot.rstrip("0123456789")


def number_of(slot: str) -> str:
    """A slot's number, empty for the first."""
    return slot[len(kind_of(slot)) :]


@cache
def _foreign(word: str, woman: bool) -> bool:
    """Whether a word belongs to the other sex."""
    return (_MEN if woman else _WOMEN).search(word) is not None


LEXICONS: dict[str, Lexicon] = {
    "disease": terms.DISEASES,
    "symptom": terms.SYMPTOMS,
    "limb": terms.LIMBS,
    "organ": terms.ORGANS,
    "procedure": terms.PROCEDURES,
    "imaging": terms.IMAGING_TESTS,
    "drug": drugs.DRUGS,
    "reason": drugs.REASONS,
    "event": drugs.EVENTS,
    "test": labs.TESTS,
}


class Writer:
    """One patient, one record: a random source, the split (which words may be used) and the words used so far."""

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self.woman = rng.random() < 0.5
        self.age = rng.randint(19, 89)
        self._used: list[str] = []

    def pick(self, choices: Sequence[str]) -> str:
        """One of the choices, each as likely."""
        return choices[self.rng.randrange(len(choices))]

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.rng.random() < share

    def term(self, kind: str, among: Sequence[str] = ()) -> str:
        """A word of this class that this split may use and this record has not used yet.

        `among` narrows the choice (the reasons of one drug) where a word of it is allowed.
        """
        parts, held_out = LEXICONS[kind].parts, self._held_out_now()
        narrow = [[word for word in parts[part] if word in among] for part in (held_out, "train")] if among else []
        for words in (*narrow, parts[held_out], parts["train"]):
            fitting = self.rng.sample(words, len(words)) if len(words) < 20 else self._some(words)
            word = next((word for word in fitting if self._fits(word)), None)
            if word is not None:
                self._used.append(word.lower())
                return word
        raise ValueError(f"no {kind} is left for this record")

    def _some(self, words: Sequence[str]) -> Iterator[str]:
        """Words at random, many more than a record can use up."""
        return (self.pick(words) for _ in range(500))

    def draw(self, lexicon: Lexicon) -> str:
        """A word of any lexicon that this split may use."""
        return self.pick(lexicon.parts[self._held_out_now()] or lexicon.parts["train"])

    def _held_out_now(self) -> Split:
        """The part to draw from: in validation and test, sometimes the words kept for them."""
        return self.split if self.split != "train" and self.chance(HELD_OUT_SHARE) else "train"

    def _fits(self, word: str) -> bool:
        """Suits the patient's sex, and neither holds nor is held by a word this record has already."""
        if _foreign(word, self.woman):
            return False
        lower = word.lower()
        return not any(lower in used or used in lower for used in self._used)

    def fill(self, template: str, **given: str) -> Passage:
        """Fill every slot; words given by slot name are used as they are. The sentence starts with a capital."""
        values = dict(given)
        self._used.extend(word.lower() for word in given.values())
        for match in sorted(_SLOT.finditer(template), key=lambda m: m[1] not in ("drug", "test")):
            self._value(match[1], match[2], values)
        text, slots, position = "", [], 0
        for match in _SLOT.finditer(template):
            literal = template[position : match.start()]
            word = values[match[1] + match[2]]
            if re.search(r"\b[Aa] $", literal) and word[0] in "aeiouAEIO8":  # an 80-year-old
                literal = literal[:-1] + "n "
            text += literal
            slots.append(Slot(match[1] + match[2], word, len(text), len(text) + len(word)))
            text, position = text + word, match.end()
        text += template[position:]
        return Passage(text[:1].upper() + text[1:], tuple(slots))

    def _value(self, kind: str, number: str, values: dict[str, str]) -> None:
        name = kind + number
        if name not in values:
            values[name] = _KINDS[kind](self, number, values) if kind in _KINDS else self.term(kind)


def _of_drug(field: str) -> Callable[[Writer, str, dict[str, str]], str]:
    """A kind whose words hang on the drug of the same number: its reasons, doses, frequencies or adverse events."""

    def choose(writer: Writer, number: str, values: dict[str, str]) -> str:
        drug = values.get("drug" + number)
        group = (
            drugs.CLASS_OF[drug] if drug in drugs.CLASS_OF else drugs.CLASSES[writer.rng.randrange(len(drugs.CLASSES))]
        )
        choices: tuple[str, ...] = getattr(group, field)
        if field in ("reasons", "events"):
            return writer.term("reason" if field == "reasons" else "event", choices)
        return writer.pick(choices)

    return choose


def _lab(level: labs.Level | None) -> Callable[[Writer, str, dict[str, str]], str]:
    def choose(writer: Writer, number: str, values: dict[str, str]) -> str:
        lab = labs.LABS[values["test" + number]]
        levels: tuple[labs.Level, ...] = ("low", "normal") if lab.name in labs.NO_HIGH else ("low", "normal", "high")
        return lab.value(level or levels[writer.rng.randrange(len(levels))], writer.rng)

    return choose


_COUNTS = ("two", "three", "four", "five", "six", "several", "2", "3", "4", "10")
_UNITS = ("days", "weeks", "months", "hours", "years")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def _words(*choices: str) -> Callable[[Writer, str, dict[str, str]], str]:
    return lambda writer, _number, _values: writer.pick(choices)


_KINDS: dict[str, Callable[[Writer, str, dict[str, str]], str]] = {
    "age": lambda w, _n, _v: str(w.age),
    "man": lambda w, _n, _v: "woman" if w.woman else "man",
    "he": lambda w, _n, _v: "she" if w.woman else "he",
    "his": lambda w, _n, _v: "her" if w.woman else "his",
    "who": lambda w, _n, _v: w.pick(("the patient", "the patient", "she" if w.woman else "he", "pt")),
    "relative": _words("mother", "father", "sister", "brother", "grandmother", "aunt", "uncle"),
    "job": _words(*terms.JOBS),
    "lesion": _words(*terms.LESIONS),
    "change": _words(*terms.CHANGES),
    "side": _words("left", "right"),
    "year": lambda w, _n, _v: str(w.rng.randint(1995, 2023)),
    "date": lambda w, _n, _v: f"{w.pick(_MONTHS)} {w.rng.randint(1, 28)}",
    "span": lambda w, _n, _v: f"{w.pick(_COUNTS)} {w.pick(_UNITS)}",
    "ago": lambda w, _n, _v: f"{w.pick(_COUNTS)} {w.pick(('weeks', 'months', 'years', 'days'))} ago",
    "severity": _words("mild", "moderate", "severe", "worsening", "intermittent", "persistent", "occasional"),
    "visit": _words("follow-up", "a routine visit", "the emergency department", "clinic", "a second opinion"),
    "reason": _of_drug("reasons"),
    "dose": _of_drug("doses"),
    "frequency": _of_drug("frequencies"),
    "event": _of_drug("events"),
    "value": _lab(None),
    "low": _lab("low"),
    "normal": _lab("normal"),
    "high": _lab("high"),
}
