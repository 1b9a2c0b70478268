"""The multi-task LoRA family by name, and its banks from task files."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from clinprompt.adapters.c_poly import CPolyBank
from clinprompt.adapters.family import FamilyBank
from clinprompt.adapters.loramoe import LoraMoeBank
from clinprompt.adapters.mixlora import MixLoraBank
from clinprompt.adapters.moelora import MoeLoraBank
from clinprompt.adapters.mtl_lora import MtlLoraBank
from clinprompt.adapters.multilora import MultiLoraBank
from clinprompt.adapters.sites import sites
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError, TrainingError
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.prompts.multitask import MultitaskAdapter

FAMILY_BANKS: dict[str, type[FamilyBank]] = {
    kind.method: kind for kind in (MtlLoraBank, MultiLoraBank, CPolyBank, MoeLoraBank, MixLoraBank, LoraMoeBank)
}


def family_description(bank: FamilyBank) -> dict[str, Any]:
    """What a card says of an adapter: its method's settings."""
    described: dict[str, Any] = bank.settings.model_dump(mode="json")
    return described


def family_of(backbone: Backbone, task: TaskPrompt) -> FamilyBank:
    """The adapter of one task as its file says. Raises ArtifactError for tensors that do not fit this model."""
    kind = FAMILY_BANKS[task.card.method]
    described = {key: value for key, value in task.card.adapter.items() if key != "per_task"}
    try:
        settings: Any = kind.settings_type.model_validate(described)
        chosen = sites(backbone, settings.targets)
    except (ValidationError, TrainingError):
        raise ArtifactError(_unfit(task, "its card describes no such adapter of this model")) from None
    wanted = {name: shape for name, (shape, _) in kind.plan(chosen, 1, settings, backbone.width).items()}
    if {name: (1, *values.shape) for name, values in task.tensors.items()} != wanted:
        raise ArtifactError(_unfit(task, "its tensors are not those that its card describes for this model"))
    tensors = {name: values[None].to(backbone.device) for name, values in task.tensors.items()}
    return kind(tensors, settings, chosen, 1)


def family_of_several(first: FamilyBank, adapter: MultitaskAdapter) -> FamilyBank:
    """The adapter with all its tasks, from its first one, which was checked against the model."""
    tensors = {name: values if first.own(name) else values[None] for name, values in adapter.tensors.items()}
    device = next(iter(first.parameters.values())).device
    tensors = {name: values.to(device) for name, values in tensors.items()}
    return type(first)(tensors, first.settings, first.sites, len(adapter.names))


def _unfit(task: TaskPrompt, problem: str) -> str:
    return f"the file of {task.task.name!r} cannot be applied as {task.card.method}: {problem}."
