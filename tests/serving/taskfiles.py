"""Task files with made-up prompts for tiny random backbones: their answers mean nothing, and every one is distinct.

Beside them the tasks of the packaged metaprompt, whose answers on the embedded backbone are words.
"""

from __future__ import annotations

from typing import Any

import torch

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import Card, TaskPrompt, backbone_note, load_metaprompt, packaged_metaprompt
from clinprompt.records import Entity, Record
from clinprompt.tasks.definition import TaskDefinition

LIMIT = 14


def task_file(
    backbone: Backbone, name: str, kind: str, *, length: int = 5, position: str = "start", seed: int = 0, **task: Any
) -> TaskPrompt:
    prompt = torch.randn(length, backbone.width, generator=torch.Generator().manual_seed(seed))
    card = Card(
        kind="task",
        backbone=backbone_note(backbone),
        position=position,  # type: ignore[arg-type]
        tasks=(TaskDefinition(name=name, type=kind, **task),),  # type: ignore[arg-type]
        answer_limit=(LIMIT,),
        settings={"target_reserve": 64, "window": 160},
    )
    return TaskPrompt({"prompt": prompt}, card)


def task_files(backbone: Backbone) -> dict[str, TaskPrompt]:
    """Tasks of every type, with prompts of different lengths at different places."""
    return {
        "entities": task_file(backbone, "entities", "ner", seed=1, labels=["Drug", "Problem"]),
        "drugs": task_file(backbone, "drugs", "ner", length=3, position="front", seed=2, labels=["Drug"]),
        "follows": task_file(backbone, "follows", "nli", length=7, seed=3, labels=["yes", "no", "perhaps"]),
        "answer": task_file(backbone, "answer", "qa", position="end", seed=4, answers="free"),
        "summary": task_file(backbone, "summary", "summarization", length=2, seed=5),
        "treats": task_file(backbone, "treats", "relation", length=4, seed=6, labels=["treats", "causes"]),
        "triples": task_file(backbone, "triples", "relation", seed=7, labels=["treats"], entities="predicted"),
    }


def packaged_tasks(backbone: Backbone) -> dict[str, TaskPrompt]:
    """Every task of the packaged metaprompt; answers of at most 24 tokens."""
    meta = load_metaprompt(packaged_metaprompt())
    # Whether the metaprompt was learned on exactly these weights does not matter here: any prompts will do.
    card = meta.card.model_copy(update={"kind": "task", "backbone": backbone_note(backbone), "metrics": {}, "data": ()})
    found = {}
    for row, name in enumerate(meta.names):
        own = card.model_copy(update={"tasks": (meta.card.tasks[row],), "answer_limit": (24,)})
        found[name] = TaskPrompt({"prompt": meta.prompt(name)}, own)
    return found


def note(number: int, repeats: int = 1) -> Record:
    """A record that every task can be asked about."""
    text = f"Case {number}: she took aspirin {'x' * (number % 7)} and has gout. " * repeats
    aspirin, gout = text.index("aspirin"), text.index("gout")
    return Record(
        str(number),
        text,
        entities=(Entity("a", "Drug", ((aspirin, aspirin + 7),)), Entity("b", "Problem", ((gout, gout + 4),))),
        hypothesis=f"She has gout {number}.",
        question="What did she take?",
    )
