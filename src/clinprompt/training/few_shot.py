"""Few-shot draws: k training records, the same for every method, stratified by label where there are labels."""

from __future__ import annotations

from collections.abc import Sequence

from clinprompt.records import Record
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.sampling import stream


def stratum(task: TaskDefinition, record: Record) -> str:
    """What a draw is stratified by: the label, the answer of a yes/no/maybe task, the relation or entity types."""
    if task.type == "nli":
        return record.label or ""
    if task.type == "qa" and task.answer_kind == "labels":
        return record.answer or ""
    if task.type == "relation":
        return min((r.type for r in record.relations), default="")
    if task.type == "ner":
        return "some" if record.entities else "none"
    return ""


def draw_shots(
    task: TaskDefinition, records: Sequence[Record], shots: int, *, draw: int = 0, seed: int = 0
) -> list[Record]:
    """`shots` records (all, if there are fewer): strata take turns in a random order, each shuffled.

    The draw depends on the task's name, `seed` and `draw` only, so every method gets the same examples.
    """
    random = stream(seed, "shots", task.name, str(draw))
    strata: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.id):
        strata.setdefault(stratum(task, record), []).append(record)
    queues = [strata[key] for key in sorted(strata)]
    queues = [[queue[i] for i in random.permutation(len(queue))] for queue in queues]
    queues = [queues[i] for i in random.permutation(len(queues))]
    drawn: list[Record] = []
    while len(drawn) < min(shots, len(records)):
        for queue in queues:
            if queue and len(drawn) < shots:
                drawn.append(queue.pop())
    return drawn
