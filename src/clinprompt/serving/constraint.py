"""Entities copied from the text: which list answers a named-entity window allows, letter by letter.

An allowed answer is ``none``, or items joined by ``; ``, each a label of the task (where it has several) and a mention
that stands in the window as a run of whole words. Case and words are those of the text; discontinuous mentions and
``#k`` cannot be said under the constraint (they are rare, and their fragments can). Our choice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clinprompt.serving.engine import Constraint
from clinprompt.tasks import surface
from clinprompt.tasks.codec import Example
from clinprompt.tasks.definition import TaskDefinition

_LINE = "\nText: "


@dataclass(frozen=True)
class Copied:
    """Mentions of `text` (white space normalised), under `labels` (empty: mentions alone)."""

    text: str
    labels: tuple[str, ...]

    def accepts(self, text: str) -> bool:
        """Whether some allowed answer begins with `text`."""
        if surface.NONE.startswith(text):
            return True
        *done, last = surface.split_unescaped(text)
        return all(self._whole(item.strip()) for item in done) and self._begins(last.lstrip(), first=not done)

    def complete(self, text: str) -> bool:
        """Whether `text` is an allowed answer."""
        return text == surface.NONE or all(self._whole(item.strip()) for item in surface.split_unescaped(text))

    def _begins(self, item: str, *, first: bool) -> bool:
        if not item:
            return True
        if not self.labels:
            return self._stands(item, whole=False)
        label, colon, mention = item.partition(":")
        if not colon:
            return any(known.startswith(label) for known in self.labels)
        return label in self.labels and (not mention.strip() or self._stands(mention.lstrip(), whole=False))

    def _whole(self, item: str) -> bool:
        if self.labels:
            label, colon, item = item.partition(":")
            if not colon or label not in self.labels:
                return False
        return bool(item.strip()) and self._stands(item.strip(), whole=True)

    def _stands(self, written: str, *, whole: bool) -> bool:
        """Whether a written mention (or the beginning of one) stands in the text, at word borders."""
        if not whole and written.endswith("\\"):
            written = written[:-1]
            if not written:
                return True
        mention = surface.unescape(written)
        open_end = "" if whole else re.escape(mention[-1:]).join(["", ""])
        pattern = (r"(?<!\w)" if mention[:1].isalnum() else "") + re.escape(mention.rstrip() if whole else mention)
        if whole and mention.rstrip()[-1:].isalnum():
            pattern += r"(?!\w)"
        return re.search(pattern + open_end[:0], self.text) is not None or (
            not whole and mention.endswith(" ") and self._stands(mention.rstrip(), whole=True)
        )


def constraint_for(task: TaskDefinition, example: Example) -> Constraint | None:
    """The constraint of one example; None where the type has none."""
    if task.type != "ner":
        return None
    _, line, rest = example.source.rpartition(_LINE)
    text = rest.removesuffix("\n" + surface.CUE) if line else ""
    return Copied(surface.normalise(text), tuple(task.labels) if len(task.labels) > 1 else ())
