"""One answer to every question, whatever it asks: what knowing how the answers are distributed is worth. Our choice.

No model is asked. The answer is the one that scores best on the training examples, so that it is as strong as an answer
can be without reading: a method that is not ahead of it may have learned what is usual, and nothing about the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks.codec import Codec, Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import headline, score
from clinprompt.tasks.registry import blind

COMMONEST = 10
"""Answers that are tried: the commonest ones of the training examples."""
Asked = Sequence[tuple[Record, Sequence[Example]]]
"""Records whose gold is hidden, with their questions."""


@dataclass(frozen=True)
class Constant:
    """The same text for every question; where `place` is not None, what stands there among the question's choices."""

    text: str = ""
    place: int | None = None

    def answer(self, example: Example) -> Output:
        """The answer to one question."""
        if self.place is None:
            return Output(self.text)
        return Output(example.choices[min(self.place, len(example.choices) - 1)])


def constant_answers(
    task: TaskDefinition, codec: Codec, constant: Constant, records: Sequence[Record]
) -> list[Prediction]:
    """Predictions for records, in order; gold is hidden."""
    return _answered(codec, constant, _asked(task, codec, records))


def best_constant(task: TaskDefinition, codec: Codec, records: Sequence[Record]) -> Constant:
    """The constant with the best headline score on these records, the commonest one among equals.

    Raises TaskError where there is no question to learn an answer from.
    """
    tried = _candidates(task, [example for record in records for example in codec.render(record)])
    if not tried:
        raise TaskError(f"task {task.name}: no training example has an answer. Name `train` under `files`.")
    asked = _asked(task, codec, records)
    scores = [_score(task, records, _answered(codec, constant, asked)) for constant in tried]
    return tried[scores.index(max(scores))]


def _asked(task: TaskDefinition, codec: Codec, records: Sequence[Record]) -> Asked:
    hidden = [blind(task, record) for record in records]
    return [(record, codec.render(record)) for record in hidden]


def _answered(codec: Codec, constant: Constant, asked: Asked) -> list[Prediction]:
    return [codec.parse(record, examples, [constant.answer(e) for e in examples]) for record, examples in asked]


def _score(task: TaskDefinition, records: Sequence[Record], answers: Sequence[Prediction]) -> float:
    value = score(task, records, answers, resamples=0)[headline(task)].value
    return value if value == value else -1.0  # an undefined score is worse than none


def _candidates(task: TaskDefinition, examples: Sequence[Example]) -> list[Constant]:
    """Texts, the commonest first; where every question has choices of its own, places among them."""
    if task.type == "qa" and task.answer_kind == "options":
        return [Constant(place=place) for place in range(max((len(e.choices) for e in examples), default=0))]
    counted = Counter(example.target for example in examples)
    ranked = sorted(counted, key=lambda text: (-counted[text], text))
    return [Constant(text) for text in ranked[:COMMONEST]]
