"""Adapters to and from task files: the tensors of one row, and in the card what they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.family import FamilyBank
from clinprompt.adapters.family_files import FAMILY_BANKS, family_description, family_of, family_of_several
from clinprompt.adapters.full import FullBank
from clinprompt.adapters.joint import LORA, PREFIX, JointBank
from clinprompt.adapters.lora import LoraBank
from clinprompt.adapters.network import NetworkBank
from clinprompt.adapters.prefix import PrefixBank, layer_names
from clinprompt.adapters.shared import SharedBank
from clinprompt.adapters.sites import expert_sites
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError
from clinprompt.prompts.artifact import TaskPrompt, require_backbone
from clinprompt.prompts.bank import Bank, DirectBank
from clinprompt.prompts.multitask import MultitaskAdapter

JOINT = ("lora+prefix", "peml")
"""Methods whose files hold a prefix and LoRA."""
_PARTS = (PREFIX, LORA)


def description(bank: Bank) -> dict[str, Any]:
    """What a card says of an adapter."""
    if isinstance(bank, FamilyBank):
        return family_description(bank)
    if isinstance(bank, SharedBank):
        return description(bank.bank)
    if isinstance(bank, LoraBank):
        plain = (name.rstrip("0123456789").rstrip(".") if ".experts." in name else name for name in bank.modules)
        targets = sorted({name.rpartition(".")[2] for name in plain})
        return {"rank": bank.rank, "alpha": bank.alpha, "targets": targets}
    if isinstance(bank, JointBank):
        return description(bank.lora) | description(bank.prefix)
    if isinstance(bank, NetworkBank):
        return {"length": bank.length, "architecture": bank.architecture.model_dump(mode="json", exclude={"search"})}
    return {"length": bank.length} if isinstance(bank, PrefixBank) else {}


def bank_of(backbone: Backbone, task: TaskPrompt) -> Bank:
    """A bank of one row that computes as a task file says, whatever it holds.

    Raises BackboneError for a file of another backbone, ArtifactError for tensors that do not fit.
    """
    require_backbone(task.card, backbone, f"task file of {task.task.name!r}")
    if not task.is_adapter:
        return DirectBank(task.prompt[None]).to(backbone.device)
    tensors = {name: tensor[None].to(backbone.device) for name, tensor in task.tensors.items()}
    if task.card.method in FAMILY_BANKS:
        return family_of(backbone, task)
    if task.card.method == "lora":
        return _lora(backbone, task, tensors)
    if task.card.method == "prefix":
        return _prefix(backbone, task, tensors)
    if task.card.method in JOINT:
        parts = {part: {n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)} for part in _PARTS}
        if sum(map(len, parts.values())) != len(tensors):
            raise ArtifactError(_unfit(task, "it holds tensors that are neither of its prefix nor of its LoRA"))
        return JointBank(_prefix(backbone, task, parts[PREFIX]), _lora(backbone, task, parts[LORA]))
    weights = {name: weight.shape for name, weight in backbone.model.named_parameters()}
    if {name: tensor.shape[1:] for name, tensor in tensors.items()} != weights:
        raise ArtifactError(_unfit(task, "its weights are not those of this model"))
    return FullBank(tensors)


def bank_of_several(backbone: Backbone, adapter: MultitaskAdapter) -> Bank:
    """A bank whose row k computes as task k of the adapter; raises as `bank_of`."""
    first = bank_of(backbone, adapter.of(adapter.names[0]))
    if isinstance(first, FamilyBank):
        return family_of_several(first, adapter)
    assert isinstance(first, AdapterBank)
    return SharedBank(first, len(adapter.names))


def _prefix(backbone: Backbone, task: TaskPrompt, tensors: dict[str, Tensor]) -> PrefixBank:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if set(shapes) != {"keys", "values"} or len(set(shapes.values())) != 1 or tensors["keys"].ndim != 5:
        raise ArtifactError(_unfit(task, "keys and values of one shape are needed, (layers, heads, m, head width)"))
    names = layer_names(backbone, tensors["keys"].shape[1])
    if len(names) != tensors["keys"].shape[1]:
        raise ArtifactError(_unfit(task, f"its keys and values are not those of {len(names)} layers, as this model's"))
    return PrefixBank(tensors["keys"], tensors["values"])


def _lora(backbone: Backbone, task: TaskPrompt, tensors: dict[str, Tensor]) -> LoraBank:
    alpha = task.card.adapter.get("alpha")
    if not isinstance(alpha, int | float) or not tensors:
        raise ArtifactError(_unfit(task, "the card names no alpha, or there are no tensors"))
    bank = LoraBank(tensors, float(alpha))
    modules = {name for name, _ in backbone.model.named_modules()} | set(expert_sites(backbone, bank.modules))
    halves = {f"{name}.{half}" for name in bank.modules for half in ("lora_A", "lora_B")}
    if halves != set(tensors) or not set(bank.modules) <= modules:
        raise ArtifactError(_unfit(task, "its layers are not those of this model, each with lora_A and lora_B"))
    return bank


def _unfit(task: TaskPrompt, problem: str) -> str:
    return f"the task file of {task.task.name!r} cannot be applied as {task.card.method}: {problem}."
