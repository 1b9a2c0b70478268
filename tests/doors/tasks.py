"""Task files with random prompts on the tiny backbone: they answer nothing sensible, and need no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import Card, TaskPrompt, backbone_note, save_task
from clinprompt.tasks.definition import TaskDefinition

NER: dict[str, Any] = {"name": "find", "type": "ner", "labels": {"Problem": "a disease", "Drug": "a medicine"}}
NLI: dict[str, Any] = {"name": "infer", "type": "nli", "labels": {"yes": "it follows", "no": "it does not"}}
QA: dict[str, Any] = {"name": "ask", "type": "qa", "answers": "options"}
SUM: dict[str, Any] = {"name": "shorten", "type": "summarization"}
RELATE: dict[str, Any] = {"name": "relate", "type": "relation", "labels": {"treats": "a drug treats a problem"}}


def task_file(backbone: Backbone, definition: dict[str, Any], path: Path | None = None, seed: int = 0) -> TaskPrompt:
    """A task file with a prompt of four positions; written to `path` if one is given."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randn(4, backbone.width, generator=generator) * 0.02
    card = Card(
        kind="task",
        backbone=backbone_note(backbone),
        position="start",
        tasks=(TaskDefinition.model_validate(definition),),
        answer_limit=(6,),
        settings={"target_reserve": 32},
    )
    file = TaskPrompt({"prompt": prompt}, card)
    return save_task(file, path) if path else file
