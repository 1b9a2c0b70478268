"""Token ids into text while they come, and answers cut at stop texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what a tokenizer shows for bytes that are not a whole character yet


class Detokenizer:
    """The text that each new token adds; a token that ends inside a character adds nothing until that is whole.

    Only the last tokens are decoded anew, as in other servers: what a token looks like depends on its neighbours.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._begin = self._told = 0  # tokens from `_begin` give context; those before `_told` have been told

    def push(self, token: int) -> str:
        """Take a token; the text that can be told now."""
        self._ids.append(token)
        known, new = self._decode(self._told), self._decode(len(self._ids))
        if new.endswith(_UNFINISHED) or len(new) <= len(known):
            return ""
        self._begin, self._told = self._told, len(self._ids)
        return new[len(known) :]

    def rest(self) -> str:
        """What was held back, at the end of an answer."""
        known, new = self._decode(self._told), self._decode(len(self._ids))
        self._begin = self._told = len(self._ids)
        return new[len(known) :]

    def _decode(self, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[self._begin : end], skip_special_tokens=True)
        return text


class Stopper:
    """Text passed on as far as it cannot be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that may be told; `stopped` is set once a stop text has come."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._release(min(places))
        return self._release(len(self._held) - self._open())

    def rest(self) -> str:
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, count: int) -> str:
        told, self._held = self._held[:count], self._held[count:]
        return told

    def _open(self) -> int:
        """Characters at the end that may begin a stop text."""
        longest = 0
        for stop in self._stops:
            for size in range(1, min(len(stop), len(self._held) + 1)):
                if self._held.endswith(stop[:size]):
                    longest = max(longest, size)
        return longest


class Trimmer:
    """Text passed on without white space at its ends: what may turn out to be the end is held until more comes."""

    def __init__(self) -> None:
        self._begun = False
        self._held = ""

    def push(self, text: str) -> str:
        """The text that may be told; what is held at the end of an answer is dropped."""
        text = self._held + (text if self._begun else text.lstrip())
        self._begun = self._begun or bool(text)
        kept = text.rstrip()
        self._held = text[len(kept) :]
        return kept
