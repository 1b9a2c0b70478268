"""A prediction as one JSON object: what `clinprompt predict` writes a line of, and what other doors hold per task."""

from __future__ import annotations

from typing import Any

from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition

SINGLE = {"qa": "answer", "nli": "label", "summarization": "summary"}  # task type: the field that answers it


def answer_line(task: TaskDefinition, prediction: Prediction, text: str | None = None) -> dict[str, Any]:
    """One prediction as JSON: the fields that the task's type answers, and what could not be used."""
    record = prediction.record
    line: dict[str, Any] = {"id": record.id, "task": task.name} | ({"text": text} if text is not None else {})
    if task.type in ("ner", "relation"):
        line["entities"] = [
            {"id": e.id, "type": e.type, "spans": [list(s) for s in e.spans], "text": e.text_in(record.text)}
            for e in record.entities
        ]
    if task.type == "relation":
        line["relations"] = [{"type": r.type, "head": r.head, "tail": r.tail} for r in record.relations]
    if task.type in ("ner", "relation"):
        line["ungrounded"] = [{"type": kind, "text": surface} for kind, surface in prediction.ungrounded]
    if task.type in SINGLE:
        line[SINGLE[task.type]] = getattr(record, SINGLE[task.type])
    if prediction.probabilities:
        line["probabilities"] = {name: round(p, 4) for name, p in prediction.probabilities.items()}
    if prediction.malformed:
        line["malformed"] = list(prediction.malformed)
    if prediction.omitted:
        line["omitted_characters"] = prediction.omitted
    return line
