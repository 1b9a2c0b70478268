"""Few-shot draws: k training records, the same for every method, stratified by label where there are labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from clinprompt.records import Record
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.pairs import each_candidate
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

    The draw depends on the task's name, `seed` and `draw` only, so every method gets the same examples. Where none of
    the drawn records can be asked about (a single entity has no pairs), the next one that can takes the last place.
    """
    random = stream(seed, "shots", task.name, str(draw))
    strata: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.id):
        strata.setdefault(stratum(task, record), []).append(record)
    queues = [strata[key] for key in sorted(strata)]
    queues = [[queue[i] for i in random.permutation(len(queue))] for queue in queues]
    queues = [queues[i] for i in random.permutation(len(queues))]
    order = _taking_turns(queues)
    drawn = list(islice(order, shots))
    if drawn and not any(_asks(task, record) for record in drawn):
        drawn[-1] = next((record for record in order if _asks(task, record)), drawn[-1])
    return drawn


def _taking_turns(queues: Sequence[list[Record]]) -> Iterator[Record]:
    while any(queues):
        for queue in queues:
            if queue:
                yield queue.pop()


def _asks(task: TaskDefinition, record: Record) -> bool:
    """Whether the record holds a question: relations between given entities have one per candidate pair."""
    return task.type != "relation" or task.entities != "given" or next(each_candidate(task, record), None) is not None
