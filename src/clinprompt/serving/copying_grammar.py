"""The answers of `constraint.Copied` as a grammar, for engines that guide by one (vLLM: XGrammar, llguidance).

Mentions are runs of the text between places where one may begin and places where one may end. Cut there, the text is a
row of pieces; the rule of a piece is the piece and, where a mention may end behind it, optionally the next one. So the
grammar has about two short rules for a word, not one alternative for each of the n²/2 runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from clinprompt.tasks import surface

_WORD = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text as an answer writes it. `begins`: a mention may begin with it; `ends`: or end with it."""

    written: str
    begins: bool
    ends: bool


def pieces(text: str) -> list[Piece]:
    """The text (white space normalised) cut wherever a mention may begin or end."""
    begins = {at for at in range(len(text)) if _begins(text, at)}
    ends = {at for at in range(1, len(text) + 1) if _ends(text, at)}
    cuts = sorted({0, len(text)} | begins | ends)
    return [
        Piece(re.sub(r"[;\\]", r"\\\g<0>", text[low:high]), low in begins, high in ends) for low, high in pairwise(cuts)
    ]


def _begins(text: str, at: int) -> bool:
    inside_word = text[at].isalnum() and at > 0 and _WORD.match(text[at - 1])
    return text[at] != " " and not inside_word


def _ends(text: str, at: int) -> bool:
    inside_word = text[at - 1].isalnum() and at < len(text) and _WORD.match(text[at])
    return text[at - 1] != " " and not inside_word


def copied_grammar(text: str, labels: Sequence[str]) -> str:
    """EBNF (as XGrammar writes it) of the lists of `labels` with mentions of `text`, or `none`.

    One space may stand before the answer, because the first token of most tokenizers brings it.
    """
    parts = pieces(text)
    if not parts:
        return f'root ::= " "? {_quoted(surface.NONE)}\n'
    label = f'({" | ".join(map(_quoted, labels))}) ":" " "? ' if labels else ""
    rules = [
        f'root ::= " "? ({_quoted(surface.NONE)} | item (" "? ";" " "? item)*)',
        f"item ::= {label}mention",
        "mention ::= " + " | ".join(f"p{number}" for number, part in enumerate(parts) if part.begins),
    ]
    for number, part in enumerate(parts):
        following = "" if number == len(parts) - 1 else f" p{number + 1}" + ("?" if part.ends else "")
        rules.append(f"p{number} ::= {_quoted(part.written)}{following}")
    return "\n".join(rules) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
