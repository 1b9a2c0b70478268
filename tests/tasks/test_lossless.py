"""Every gold record of the suite survives the way into text and back; each exception has a reason that is checked.

The default run takes a hashed sample of each task, `-m slow` every record (about three minutes).
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import pytest

from clinprompt.records import Record
from clinprompt.suites import load_suite, load_task_data
from clinprompt.tasks.codec import Example
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.pairs import coverage
from clinprompt.tasks.qa import gold_answer
from clinprompt.tasks.registry import codec_for
from clinprompt.tasks.scoring import entity_keys, relation_keys

from .support import echo, length

SUITE = load_suite("open-clinical")
TASKS = [*SUITE.sources, *SUITE.targets]
WHOLE, WINDOWED = 1_000_000, 512

# Units (entities, relations) that do not survive, over all splits; docs/tasks.md explains them. All others: none.
KNOWN = {"maccrobat-ner": 4, "maccrobat-re": 2179, "biored": 5, "phee": 5}


def structure(task: TaskDefinition, record: Record) -> Set[Any]:
    """What a task wants to know about a record."""
    match task.type:
        case "ner":
            return entity_keys(record, list(task.labels))
        case "relation":
            return relation_keys(task, record)
        case "qa":
            return {gold_answer(record)}
        case "nli":
            return {record.label}
        case "summarization":
            return {(record.summary or "").strip()}


def explained(task: TaskDefinition, record: Record, examples: list[Example], found: Record) -> int:
    """How many units of a record may be lost, by the documented reasons."""
    if task.type == "ner":
        surfaces = [[record.text[a:b] for a, b in spans] for _, spans in entity_keys(record, list(task.labels))]
        return sum(any(surface != surface.strip() for surface in parts) for parts in surfaces)
    if task.type == "relation":
        return coverage(task, record).uncovered
    if task.type == "summarization" and len(examples) > 1:  # all sentences, but in the order of the windows
        assert sorted((found.summary or "").split()) == sorted((record.summary or "").split())
        return int(structure(task, found) != structure(task, record))
    return 0


def lost(task: TaskDefinition, records: Iterable[Record], budget: int) -> int:
    """Units lost, each for a documented reason (asserted)."""
    codec, total = codec_for(task, length, budget), 0
    for record in records:
        examples, prediction = echo(task, codec, record)
        gold, found = structure(task, record), structure(task, prediction.record)
        assert len(gold - found) == explained(task, record, examples, prediction.record), record.id
        assert len(found - gold) <= len(gold - found), record.id
        assert not prediction.ungrounded and not prediction.malformed, record.id
        assert all(length(example.source) <= budget for example in examples), record.id
        assert budget == WINDOWED or not prediction.omitted, record.id
        total += len(gold - found)
    return total


@pytest.mark.data
@pytest.mark.parametrize("name", TASKS)
def test_a_sample_survives(name: str, data_dir: Path) -> None:
    data = load_task_data(name, data_dir, limit=2 if name == "maccrobat-re" else 8)  # 880 pairs a document there
    records = [record for split in data.splits.values() for record in split]
    assert records
    for budget in (WHOLE, WINDOWED):
        lost(data.task, records, budget)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", TASKS)
def test_every_record_survives(name: str, data_dir: Path) -> None:
    data = load_task_data(name, data_dir)
    records = [record for split in data.splits.values() for record in split]
    assert lost(data.task, records, WHOLE) <= KNOWN.get(name, 0)
    assert data.task.type == "summarization" or lost(data.task, records, WINDOWED) <= KNOWN.get(name, 0)
