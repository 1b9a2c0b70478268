"""Scores of a task on a split: metrics with intervals, and how answers failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from clinprompt.errors import TaskError
from clinprompt.methods.in_context import InContext
from clinprompt.records import Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import ErrorCounts, Score, error_analysis, headline, score
from clinprompt.training.examples import sample_records


class Answers(Protocol):
    """Whatever answers a task: `evaluation.answerer.Answerer`, or one constant answer."""

    @property
    def task(self) -> TaskDefinition: ...

    @property
    def in_context(self) -> InContext | None: ...

    def answers(
        self, records: Sequence[Record], progress: Callable[[int, int], None] | None = None
    ) -> list[Prediction]: ...


@dataclass(frozen=True)
class Evaluation:
    """What came out: `n` records were scored of the `available` ones (fewer: a sample chosen by hash).

    ungrounded: generated mentions that are not in the text (each is an error); malformed: parts of answers that follow
    no format; omitted: records of which a part could not be shown. `errors` for NER only. `in_context`: how many solved
    examples were given, and how many of them fitted before a question (mean, least).
    """

    task: TaskDefinition
    split: str
    n: int
    available: int
    scores: dict[str, Score]
    headline: str
    ungrounded: int
    malformed: int
    omitted: int
    errors: ErrorCounts | None
    predictions: tuple[Prediction, ...] = ()
    in_context: dict[str, float | int] | None = None

    @property
    def value(self) -> Score:
        """The headline score."""
        return self.scores[self.headline]

    def summary(self) -> dict[str, Any]:
        """JSON-ready, without any text of a record; an undefined metric is None."""
        found = {
            "task": self.task.name,
            "type": self.task.type,
            "split": self.split,
            "n": self.n,
            "available": self.available,
            "sampled": self.n < self.available,
            "headline": self.headline,
            "metrics": {name: _plain(value) for name, value in self.scores.items()},
            "ungrounded": self.ungrounded,
            "malformed": self.malformed,
            "omitted": self.omitted,
        }
        found |= {"in_context": self.in_context} if self.in_context else {}
        return found | ({"errors": asdict(self.errors)} if self.errors else {})


def evaluate_records(
    answerer: Answers,
    records: Sequence[Record],
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict and score records; with `limit` a fixed sample of them, chosen by hash. Raises TaskError for none."""
    task = answerer.task
    if not records:
        raise TaskError(f"task {task.name}: there are no {split} records. Choose another --split, or add files for it.")
    chosen = sample_records(task.name, records, limit) if limit is not None else list(records)
    predictions = answerer.answers(chosen, progress)
    return Evaluation(
        task=task,
        split=split,
        n=len(chosen),
        available=len(records),
        scores=score(task, chosen, predictions, seed=seed),
        headline=headline(task),
        ungrounded=sum(len(p.ungrounded) for p in predictions),
        malformed=sum(len(p.malformed) for p in predictions),
        omitted=sum(p.omitted > 0 for p in predictions),
        errors=error_analysis(chosen, predictions, list(task.labels)) if task.type == "ner" else None,
        predictions=tuple(predictions),
        in_context=answerer.in_context.summary() if answerer.in_context else None,
    )


def _plain(value: Score) -> dict[str, float | None]:
    return {k: None if math.isnan(v) else round(v, 3) for k, v in asdict(value).items()}
