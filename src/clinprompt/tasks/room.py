"""How much of a text one source may hold: the token budget, measured on the very source that is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clinprompt.errors import TaskError
from clinprompt.records import Span
from clinprompt.tasks.codec import TokenLength
from clinprompt.tasks.windows import shorten, windows

LEAST_TEXT = 16  # tokens of text a window must have room for, beside the instruction


@dataclass(frozen=True, slots=True)
class Room:
    """A token budget for sources, under one tokenizer."""

    length: TokenLength
    budget: int

    def fits(self, source: str) -> bool:
        return self.length(source) <= self.budget

    def check(self, source_without_text: str, task: str) -> None:
        """Raise TaskError if an instruction leaves less than `LEAST_TEXT` tokens for the text."""
        needed = self.length(source_without_text) + LEAST_TEXT
        if needed > self.budget:
            raise TaskError(
                f"task {task}: a source may have {self.budget} tokens, but the instruction with its labels and "
                f"{LEAST_TEXT} tokens of text need {needed}. Allow longer sources or shorten `instruction`."
            )

    def windows(
        self,
        text: str,
        render: Callable[[str], str],
        *,
        whole: Sequence[Span] = (),
        together: Sequence[Span] = (),
    ) -> list[Span]:
        """Windows of `text` whose rendered source fits; see `clinprompt.tasks.windows.windows`."""
        return windows(text, lambda start, end: self.fits(render(text[start:end])), whole=whole, together=together)

    def shorten(self, text: str, render: Callable[[str], str], *, keep: str, reserve: int = 0) -> str:
        """The longest beginning or end of `text` whose rendered source leaves `reserve` tokens free."""
        return shorten(text, lambda part: self.length(render(part)) + reserve <= self.budget, keep=keep)
