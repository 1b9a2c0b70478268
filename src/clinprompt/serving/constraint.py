"""Entities copied from the text: which list answers a named-entity window allows.

An allowed answer is ``none``, or items joined by ``;``, each a label of the task (where it has several) and a mention
that stands in the window as a run of whole words, in the text's own spelling. Every beginning of a run at a word border
can be continued to the end of its word, so the model is never led into a dead end. Discontinuous mentions and ``#k``
cannot be said (their fragments can); a mention that is said more often than it stands is ungrounded. Our choice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clinprompt.serving.copying_grammar import copied_grammar
from clinprompt.serving.engine import Constraint
from clinprompt.tasks import surface
from clinprompt.tasks.codec import Example
from clinprompt.tasks.definition import TaskDefinition

_LINE = "\nText: "
_LOOSE = re.compile(r"^\s|\s\s|[^\S ]")  # white space that an answer never has
_ESCAPING = re.compile(r"(?<!\\)(?:\\\\)*\\$")  # ends in a backslash that takes the meaning from what follows
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\[^;\\]")  # one that takes it from an ordinary character
UNFINISHED = "\ufffd"  # how a tokenizer shows the first bytes of a character


@dataclass(frozen=True)
class Copied:
    """Mentions of `text` (white space normalised), under `labels` (none: mentions alone)."""

    text: str
    labels: tuple[str, ...]

    def accepts(self, text: str) -> bool:
        """Whether some allowed answer begins with `text`, which may end inside a character of the window."""
        if text.endswith(UNFINISHED):
            wide = {character for character in self.text if not character.isascii()}
            return any(self.accepts(text[:-1] + character) for character in wide)
        if _LOOSE.search(text):
            return False
        if surface.NONE.startswith(text):
            return True
        *done, last = surface.split_unescaped(text)
        return all(self._whole(item.strip()) for item in done) and self._begins(last.lstrip())

    def complete(self, text: str) -> bool:
        """Whether `text` is an allowed answer."""
        return text == surface.NONE or all(self._whole(item.strip()) for item in surface.split_unescaped(text))

    def grammar(self) -> str:
        """The same as a grammar; see `copying_grammar`."""
        return copied_grammar(self.text, self.labels)

    def _begins(self, item: str) -> bool:
        if not self.labels:
            return self._stands(item)
        label, colon, mention = item.partition(":")
        if not colon:
            return any(known.startswith(label) for known in self.labels)
        return label in self.labels and self._stands(mention.lstrip())

    def _whole(self, item: str) -> bool:
        label, colon, mention = item.partition(":") if self.labels else ("", ":", item)
        if not colon or (self.labels and label not in self.labels) or not mention.strip():
            return False
        return self._stands(mention.strip(), whole=True)

    def _stands(self, written: str, *, whole: bool = False) -> bool:
        """Whether a written mention (or the beginning of one) stands in the text from a word border on."""
        if _ESCAPING.search(written):
            return not whole and any(self._stands(written + character) for character in ";\\")
        if _ESCAPED.search(written):
            return False
        mention = surface.unescape(written)
        if not mention:
            return True
        before = r"(?<!\w)" if mention[0].isalnum() else ""
        after = r"(?!\w)" if whole and mention[-1].isalnum() else ""
        return re.search(before + re.escape(mention) + after, self.text) is not None


def constraint_for(task: TaskDefinition, example: Example) -> Constraint | None:
    """The constraint of one example; None where the task's type has none."""
    if task.type != "ner":
        return None
    _, line, rest = example.source.partition(_LINE)
    text = rest.removesuffix("\n" + surface.CUE) if line else ""
    return Copied(surface.normalise(text), tuple(task.labels) if len(task.labels) > 1 else ())
