"""Adapters of every kind with made-up values, as task files and as files of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from clinprompt.adapters.files import description
from clinprompt.adapters.full import full_bank
from clinprompt.adapters.joint import JointBank
from clinprompt.adapters.lora import lora_bank
from clinprompt.adapters.prefix import prefix_bank
from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import Card, TaskPrompt, backbone_note
from clinprompt.prompts.bank import Bank
from clinprompt.prompts.multitask import MultitaskAdapter
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.multitask_banks import multitask_bank
from tests.serving.taskfiles import LIMIT

DEFINITIONS = {
    "find": TaskDefinition(name="find", type="ner", labels={"Drug": "", "Problem": ""}),
    "infer": TaskDefinition(name="infer", type="nli", labels={"yes": "", "no": "", "perhaps": ""}),
    "sum": TaskDefinition(name="sum", type="summarization"),
}


def shaken(bank: Any, seed: int) -> Any:
    """The bank with random values added: no half of an update stays zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in bank.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return bank


def card_of(backbone: Backbone, method: str, kind: str, names: Sequence[str], bank: Bank, **adapter: Any) -> Card:
    return Card(
        kind=kind,  # type: ignore[arg-type]
        backbone=backbone_note(backbone),
        position="front" if bank.length else "start",
        tasks=tuple(DEFINITIONS[name] for name in names),
        method=method,
        adapter=description(bank) | adapter,
        answer_limit=(LIMIT,) * len(names),
        settings={"target_reserve": 64, "window": 160},
    )


def adapter_file(backbone: Backbone, method: str, name: str, seed: int = 0, **lora: Any) -> TaskPrompt:
    """lora, prefix, lora+prefix, peml or full, for one task."""
    prompts = torch.randn(1, 3, backbone.width, generator=torch.Generator().manual_seed(seed))
    bank: Any
    if method == "full":
        bank = full_bank(backbone, 1)
    elif method == "lora":
        bank = lora_bank(backbone, [seed], **lora)
    elif method == "prefix":
        bank = prefix_bank(backbone, prompts)
    else:
        bank = JointBank(prefix_bank(backbone, prompts), lora_bank(backbone, [seed], **lora))
    shaken(bank, seed)
    return TaskPrompt(bank.row(0), card_of(backbone, method, "task", [name], bank))


def several(backbone: Backbone, method: str, seed: int = 0) -> MultitaskAdapter:
    """One adapter for all of DEFINITIONS."""
    bank = shaken(multitask_bank(backbone, len(DEFINITIONS), method, {}), seed)
    card = card_of(backbone, method, "multitask", list(DEFINITIONS), bank, per_task=list(bank.per_task))
    return MultitaskAdapter(bank.stored(), card)
