"""Task files to serve in benchmarks: prompts that ship with the package, and random ones of any length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import (
    Card,
    TaskPrompt,
    backbone_note,
    load_metaprompt,
    packaged_metaprompt,
    save_task,
)


def packaged_tasks(backbone: Backbone, folder: Path, names: Sequence[str], *, limit: int = 24) -> dict[str, TaskPrompt]:
    """Tasks of the packaged metaprompt as task files for `backbone`, answering with at most `limit` tokens.

    Whether the metaprompt was learned on exactly these weights does not matter to what is measured.
    """
    meta = load_metaprompt(packaged_metaprompt())
    tasks = {task.name: task for task in meta.card.tasks}
    own = meta.card.model_copy(
        update={
            "kind": "task",
            "backbone": backbone_note(backbone),
            "answer_limit": (limit,),
            "metrics": {},
            "data": (),
        }
    )
    return {
        name: _saved(
            TaskPrompt({"prompt": meta.prompt(name)}, own.model_copy(update={"tasks": (tasks[name],)})), folder
        )
        for name in names
    }


def random_tasks(backbone: Backbone, folder: Path, count: int, *, length: int, limit: int) -> dict[str, TaskPrompt]:
    """`count` entity tasks with random prompts (length, d) of the size of embeddings."""
    meta = load_metaprompt(packaged_metaprompt())
    size = float(backbone.model.get_input_embeddings().weight.float().std())
    found = {}
    for seed in range(count):
        prompt = torch.randn(length, backbone.width, generator=torch.Generator().manual_seed(seed)) * size
        name = f"task-{seed}"
        card = Card(
            kind="task",
            backbone=backbone_note(backbone),
            position="start",
            tasks=(meta.card.tasks[0].model_copy(update={"name": name}),),
            answer_limit=(limit,),
        )
        found[name] = _saved(TaskPrompt({"prompt": prompt}, card), folder)
    return found


def _saved(file: TaskPrompt, folder: Path) -> TaskPrompt:
    folder.mkdir(parents=True, exist_ok=True)
    return save_task(file, folder / f"{file.task.name}.safetensors")
