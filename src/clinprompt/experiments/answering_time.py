"""How long answering a target's test records takes, from a few questions: for the plan of a sweep.

The questions are answered under an untrained prompt, with answers as long as the training records' mean; cells of weak
prompts that do not stop answering take longer. In-context learning is measured with its examples before the questions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from clinprompt.evaluation.answerer import in_context
from clinprompt.evaluation.decoding import Decoder
from clinprompt.evaluation.predict import answer, as_bank
from clinprompt.experiments.cells import CellPlan
from clinprompt.experiments.protocol import FULL, IN_CONTEXT
from clinprompt.experiments.workbench import Workbench
from clinprompt.prompts.initialisation import initial_prompts
from clinprompt.tasks.codec import Example
from clinprompt.tasks.registry import blind
from clinprompt.training.batching import TaskExamples
from clinprompt.training.examples import task_codec

MEASURED_QUESTIONS = 32
"""Questions per target that are answered, spread evenly over its test records. Not records: one document of a relation
task may ask hundreds. Our choice."""


@dataclass
class AnsweringTime:
    """Seconds to answer a cell's test records, measured once per target (and per number of examples in the context).
    `full`: targets with their training examples, which say how long answers are."""

    bench: Workbench
    full: dict[str, TaskExamples]
    _known: dict[tuple[str, int], float] = field(default_factory=dict)

    def of(self, cells: Sequence[CellPlan]) -> float:
        """Of all these cells."""
        return sum(self._of(cell) for cell in cells)

    def _of(self, cell: CellPlan) -> float:
        shown = int(cell.shots) if cell.method == IN_CONTEXT else 0
        if (cell.target, shown) not in self._known:
            self._known[cell.target, shown] = self._measured(cell, shown)
        return self._known[cell.target, shown]

    def _measured(self, cell: CellPlan, shown: int) -> float:
        backbone, length = self.bench.backbone, 0 if shown else self.bench.prompt_length()
        asked, chosen = self._questions(cell, shown, length)
        if not asked:  # documents without a pair to ask about
            return 0.0
        prompt = initial_prompts(backbone, length, "vocabulary", [0])[0] if length else None
        decoder = Decoder(backbone, as_bank(backbone, prompt), self.bench.prompt_position())
        labels = [example.labels for example in self.full[cell.target].train]
        began = time.monotonic()
        answer(decoder, chosen, [0] * len(chosen), max(1, round(sum(labels) / len(labels))))
        return (time.monotonic() - began) * asked / len(chosen)

    def _questions(self, cell: CellPlan, shown: int, length: int) -> tuple[int, list[Example]]:
        """How many questions the test records ask, and some of them, with what stands before them."""
        bench, data, settings = self.bench, self.bench.target(cell.target), self.bench.settings("pt", FULL, 0)
        codec = task_codec(bench.backbone, data.task, length, settings.target_reserve, settings.window)
        asked = [
            question for one in bench.test_records(cell.target) for question in codec.render(blind(data.task, one))
        ]
        chosen = asked[:: -(-len(asked) // MEASURED_QUESTIONS)] if asked else []
        if shown:
            train = data.splits["train"]
            context = in_context(bench.backbone, data.task, train, shown, draw=cell.draw, seed=cell.seed).in_context
            chosen = context.before(chosen) if context else chosen
        return len(asked), chosen
