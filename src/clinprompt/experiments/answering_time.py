"""How long answering a target's test records takes, from a few questions: for the plan of a sweep.

The questions are answered under an untrained prompt, with answers as long as the training records' mean; cells of weak
prompts that do not stop answering take longer. In-context learning is measured with its examples before the questions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from clinprompt.evaluation.answerer import Answerer
from clinprompt.evaluation.decoding import Decoder
from clinprompt.evaluation.predict import answer, as_bank
from clinprompt.experiments.answering import untrained
from clinprompt.experiments.cells import CellPlan
from clinprompt.experiments.protocol import CONSTANT, FULL, IN_CONTEXT
from clinprompt.experiments.workbench import Workbench
from clinprompt.prompts.initialisation import initial_prompts
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
        if cell.method == CONSTANT:  # no model is asked
            return 0.0
        shown = int(cell.shots) if cell.method == IN_CONTEXT else 0
        if (cell.target, shown) not in self._known:
            self._known[cell.target, shown] = self._measured(cell)
        return self._known[cell.target, shown]

    def _measured(self, cell: CellPlan) -> float:
        answerer = untrained(self.bench, cell) if cell.method == IN_CONTEXT else self._under_a_prompt(cell)
        task, bank = answerer.task, as_bank(self.bench.backbone, answerer.prompt)
        codec = task_codec(self.bench.backbone, task, bank.length, answerer.reserve, answerer.window)
        asked = [e for record in self.bench.test_records(cell.target) for e in codec.render(blind(task, record))]
        if not asked:  # documents without a pair to ask about
            return 0.0
        chosen = asked[:: -(-len(asked) // MEASURED_QUESTIONS)]
        if answerer.in_context:
            chosen = answerer.in_context.before(chosen)
        decoder = Decoder(self.bench.backbone, bank, answerer.position)
        labels = [example.labels for example in self.full[cell.target].train]
        began = time.monotonic()
        answer(decoder, chosen, [0] * len(chosen), max(1, round(sum(labels) / len(labels))))
        return (time.monotonic() - began) * len(asked) / len(chosen)

    def _under_a_prompt(self, cell: CellPlan) -> Answerer:
        bench, settings = self.bench, self.bench.settings("pt", FULL, 0)
        return Answerer(
            bench.backbone,
            bench.target(cell.target).task,
            initial_prompts(bench.backbone, bench.prompt_length(), "vocabulary", [0])[0],
            bench.prompt_position(),
            reserve=settings.target_reserve,
            window=settings.window,
        )
