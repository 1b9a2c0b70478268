"""In-context learning: solved examples stand before the question as text, and nothing is trained.

Examples are written as training would see them (source, answer), one after another, before the source of the question.
As many as fit into the context beside the question and its answer are shown, the first ones first; how many that were
is counted, never silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from clinprompt.backbone.encoding import source_budget
from clinprompt.backbone.model import Backbone
from clinprompt.tasks.codec import Example

GAP = "\n\n"


@dataclass
class InContext:
    """Solved examples for every question of a task. `reserve`: tokens kept free for the answer; `fitted`: how many
    examples stood before each question so far."""

    backbone: Backbone
    examples: Sequence[Example]
    reserve: int
    fitted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._blocks = [f"{example.source} {example.target}{GAP}" for example in self.examples]
        self._sizes = list(accumulate((self.backbone.length(block) for block in self._blocks), initial=0))
        self._room = source_budget(self.backbone, 0, self.reserve)

    def before(self, questions: Sequence[Example]) -> list[Example]:
        """The questions with as many solved examples before each as fit; everything else of them unchanged."""
        return [self._asked(question) for question in questions]

    def _asked(self, question: Example) -> Example:
        count = len(self._blocks)
        left = self._room - self.backbone.length(question.source)
        while count and self._sizes[count] > left:
            count -= 1
        # Tokens merge over borders at most, so the sum is an upper bound in byte-pair vocabularies; others are checked.
        while count and self.backbone.length(text := "".join(self._blocks[:count]) + question.source) > self._room:
            count -= 1
        self.fitted.append(count)
        return replace(question, source=text) if count else question

    def summary(self) -> dict[str, float | int]:
        """`given` examples, and how many stood before a question: on average, and the least."""
        mean = sum(self.fitted) / len(self.fitted) if self.fitted else 0.0
        return {"given": len(self.examples), "fitted": round(mean, 2), "least": min(self.fitted, default=0)}
