"""A document of a request as a record, and a prediction as the answer that is sent.

Records carry the document's number as id, so that no message about one repeats a word of the client's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clinprompt.errors import TaskError
from clinprompt.evaluation.answer_line import answer_line
from clinprompt.evaluation.inputs import NEEDS, lacking
from clinprompt.records import Entity, Record
from clinprompt.serving.engine import ServedTask
from clinprompt.serving.predicting import Answer
from clinprompt.serving.schemas import Document, TaskAnswer, TaskCard, TaskSummary
from clinprompt.tasks.qa import letter


def record_of(number: int, document: Document | str) -> Record:
    """Raises TaskError for entities that contradict themselves or the text."""
    if isinstance(document, str):
        return Record(str(number), document)
    try:
        return Record(
            str(number),
            document.text,
            entities=tuple(
                Entity(given.id, given.type, tuple(given.spans), tuple(given.concepts)) for given in document.entities
            ),
            hypothesis=document.hypothesis,
            question=document.question,
            options=_options(document.options),
        )
    except ValueError:
        raise TaskError(
            f"documents.{number}.entities: spans are [start, end) with start < end, within the text; those of one "
            "entity are sorted and do not overlap."
        ) from None


def _options(given: Sequence[str] | dict[str, str] | None) -> tuple[tuple[str, str], ...]:
    if isinstance(given, dict):
        return tuple(given.items())
    return tuple((letter(index), text) for index, text in enumerate(given or ()))


def require_fields(task: ServedTask, number: int, record: Record) -> None:
    """Raises TaskError where a document lacks what a task asks for."""
    lacks = lacking(task.definition, record)
    if lacks is not None:
        raise TaskError(f"documents.{number}: the task {task.name} needs {NEEDS[lacks]}.")


def answer_of(task: ServedTask, document: Document | str, answer: Answer) -> TaskAnswer:
    """The answer as it is sent."""
    line: dict[str, Any] = answer_line(task.definition, answer.prediction)
    line["task"] = task.name
    if not isinstance(document, str) and document.id is not None:
        line["id"] = document.id
    for field, values in (
        ("entities", answer.entities),
        ("relations", answer.relations),
        ("ungrounded", answer.ungrounded),
    ):
        for item, value in zip(line.get(field, ()), values, strict=False):
            if value is not None:
                item["confidence"] = round(value, 4)
    if answer.confidence is not None:
        line["confidence"] = round(answer.confidence, 4)
    return TaskAnswer.model_validate(line)


def summary_of(task: ServedTask) -> TaskSummary:
    """A task as the list of tasks shows it."""
    return TaskSummary(
        name=task.name,
        task=task.definition.name,
        type=task.definition.type,
        labels=task.definition.labels,
        method=task.file.card.method,
        prompt_tokens=task.positions,
        digest=task.digest,
    )


def card_of(task: ServedTask, file: str, size: int) -> TaskCard:
    """A task with its card; `file` and `size`: name and bytes of what it is served from."""
    card = task.file.card.model_dump(mode="json", exclude_defaults=True)
    parameters = sum(tensor.numel() for tensor in task.file.tensors.values())
    return TaskCard(**summary_of(task).model_dump(), card=card, file=file, bytes=size, parameters=parameters)
