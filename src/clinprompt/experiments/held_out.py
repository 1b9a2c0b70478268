"""Source tasks in the place of targets: what metaprompts have not seen of them judges the trials.

Settings chosen so ask nothing of a target but its training examples, as a person has it who brings five of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from clinprompt.errors import TrainingError
from clinprompt.experiments.protocol import FULL, Shots
from clinprompt.records import Record
from clinprompt.training.examples import hashed_order
from clinprompt.training.learn import SourceTask
from clinprompt.training.settings import LearnSettings


def held_out(source: SourceTask, learn: LearnSettings) -> SourceTask:
    """The source without the training records that metaprompts are learned from, and without the validation records
    that these were stopped by, as far as others are left."""
    validation = beyond(source, source.validation, learn.validation_records)
    return replace(
        source, train=beyond(source, source.train, learn.limit), validation=validation or list(source.validation)
    )


def beyond(source: SourceTask, records: Sequence[Record], limit: int) -> list[Record]:
    """The records that `sample_records` with this limit leaves out."""
    order = hashed_order(source.task.name, [record.id for record in records])
    return [records[i] for i in order[limit:]]


def judging(
    sources: Sequence[SourceTask], targets: Collection[str], learn: LearnSettings, shots: Shots, count: int
) -> list[SourceTask]:
    """The `count` sources (fewer, if there are no more) that trials with this number of shots are judged on.

    Types of tasks take turns, in the suite's order. Raises TrainingError if no source has enough unseen records.
    """
    needed = 1 if shots == FULL else max(1, int(shots))
    usable = [held_out(source, learn) for source in sources if source.task.name not in targets]
    usable = [source for source in usable if len(source.train) >= needed and source.validation]
    if not usable:
        raise TrainingError(
            f"choose_on: sources: no source has {needed} training records beyond the {learn.limit} that metaprompts "
            "are learned from, and validation records. Set `learn: {limit: …}` lower, or choose_on: target."
        )
    kinds = list(dict.fromkeys(source.task.type for source in usable))
    queues = {kind: [source for source in usable if source.task.type == kind] for kind in kinds}
    turns = [queues[kind][i] for i in range(len(usable)) for kind in kinds if i < len(queues[kind])]
    return turns[:count]
