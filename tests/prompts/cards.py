"""Small metaprompts and task prompts made for a given backbone."""

from __future__ import annotations

import torch

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import Card, Metaprompt, TaskPrompt, backbone_note
from clinprompt.tasks.definition import TaskDefinition


def definition(name: str) -> TaskDefinition:
    return TaskDefinition(name=name, type="nli", labels={"yes": "follows", "no": "does not"}, instruction="Decide.")


def card(backbone: Backbone, kind: str, names: list[str], position: str = "front") -> Card:
    return Card(
        kind=kind,  # type: ignore[arg-type]
        backbone=backbone_note(backbone),
        position=position,  # type: ignore[arg-type]
        tasks=tuple(definition(name) for name in names),
    )


def metaprompt_for(
    backbone: Backbone, *, tasks: int = 3, length: int = 5, rank: int = 1, position: str = "front", seed: int = 0
) -> Metaprompt:
    random = torch.Generator().manual_seed(seed)
    shared = torch.randn(length, backbone.width, generator=random)
    u = 1 + 0.3 * torch.randn(tasks, length, rank, generator=random)
    v = 1 + 0.3 * torch.randn(tasks, backbone.width, rank, generator=random)
    return Metaprompt(shared, u, v, card(backbone, "metaprompt", [f"task{i}" for i in range(tasks)], position))


def task_for(backbone: Backbone, *, length: int = 5, position: str = "front", seed: int = 0) -> TaskPrompt:
    prompt = torch.randn(length, backbone.width, generator=torch.Generator().manual_seed(seed))
    return TaskPrompt({"prompt": prompt}, card(backbone, "task", ["alone"], position))
