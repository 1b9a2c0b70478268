"""A few records of two toy tasks, enough to train on in a second."""

from __future__ import annotations

from clinprompt.records import Entity, Record
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.learn import SourceTask

WORDS = ["fever", "cough", "asthma", "gout", "rash", "pain", "sepsis", "anemia"]


def ner_task(name: str = "find", shift: int = 0, count: int = 12) -> SourceTask:
    records = []
    for i in range(count):
        word = WORDS[(i + shift) % len(WORDS)]
        text = f"Case {i}: has {word} now."
        start = text.index(word)
        records.append(Record(f"{name}{i}", text, entities=(Entity("e1", "Problem", ((start, start + len(word)),)),)))
    task = TaskDefinition(name=name, type="ner", labels={"Problem": "a problem"})
    return SourceTask(task, records, records[:4], licence="CC0", permissive=True)


def nli_task(name: str = "infer", count: int = 12) -> SourceTask:
    records = [
        Record(f"{name}{i}", f"He has {w}.", hypothesis=f"{w}?" if i % 2 else "No.", label="yes" if i % 2 else "no")
        for i, w in zip(range(count), WORDS * 2, strict=False)
    ]
    task = TaskDefinition(name=name, type="nli", labels={"yes": "follows", "no": "does not"})
    return SourceTask(task, records, records[:4], licence="CC0", permissive=True)
