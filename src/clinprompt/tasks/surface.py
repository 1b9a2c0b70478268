"""How the lines of a source and the items of an answer are written, and read back.

A source is an instruction, named lines and the cue ``Answer:``. A list answer is items joined by ``; ``; in an item
a backslash takes the special meaning from the character (or the word ``none``) that follows it.
"""

from __future__ import annotations

import re

CUE = "Answer:"
NONE = "none"
GAP = "..."

_SEPARATOR = re.compile(r"\\.|;", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_OCCURRENCE = re.compile(r"^(.*\S) #([0-9]{1,6})$", re.DOTALL)
_LITERAL_OCCURRENCE = re.compile(r"(?<= )#(?=[0-9]{1,6}$)")


def source(instruction: str, *lines: tuple[str, str]) -> str:
    """The instruction, one ``Name: text`` line per non-empty text, and the answer cue. Texts are shown as they are,
    without the white space at their ends."""
    shown = [f"{name}: {text.strip()}" for name, text in lines if text.strip()]
    return "\n".join([instruction, *shown, CUE])


def normalise(text: str) -> str:
    """White space as one space, none at the ends."""
    return " ".join(text.split())


def escape(text: str, *, special: str = ";\\") -> str:
    """`text` (normalised) such that none of its characters is read as a separator, a gap or an occurrence number."""
    text = "".join("\\" + character if character in special else character for character in text)
    text = " ".join("\\" + GAP if word == GAP else word for word in text.split(" "))
    return _LITERAL_OCCURRENCE.sub(r"\\#", text)


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return _ESCAPED.sub(r"\1", text)


def split_unescaped(text: str, separator: str = ";") -> list[str]:
    """The parts of `text` between separators (one character) that no backslash protects; parts stay escaped."""
    pattern = _SEPARATOR if separator == ";" else re.compile(r"\\.|" + re.escape(separator), re.DOTALL)
    parts, start = [], 0
    for match in pattern.finditer(text):
        if match.group() == separator:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def items(answer: str) -> list[str]:
    """The non-empty items of a list answer, still escaped; ``none`` alone is the empty list."""
    parts = [normalise(part) for part in split_unescaped(answer)]
    return [part for part in parts if part and part.lower() != NONE]


def typed(item: str) -> tuple[str, str] | None:
    """``Type: rest`` split at the first unescaped colon (the rest stays escaped), or None."""
    parts = split_unescaped(item, ":")
    if len(parts) < 2:
        return None
    kind = unescape(normalise(parts[0]))
    rest = item[len(parts[0]) + 1 :].strip()
    return (kind, rest) if kind and rest else None


def fragments(mention: str) -> list[tuple[str, int | None]]:
    """A written mention (escaped, normalised) as its fragments, each with the occurrence number it carries, if any."""
    found: list[tuple[str, int | None]] = []
    words: list[str] = []
    for word in [*mention.split(" "), GAP]:
        if word != GAP:
            words.append(word)
            continue
        part = " ".join(words)
        words = []
        match = _OCCURRENCE.match(part)
        text, number = (match.group(1), int(match.group(2))) if match else (part, None)
        if text:
            found.append((unescape(text), number))
    return found


def write_mention(parts: list[str], numbers: list[int | None], *, special: str = ";\\") -> str:
    """The inverse of `fragments`."""
    written = [
        escape(part, special=special) + (f" #{number}" if number is not None else "")
        for part, number in zip(parts, numbers, strict=True)
    ]
    return f" {GAP} ".join(written)
