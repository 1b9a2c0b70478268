"""What an adapter changes, in numbers a person can look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.family import FamilyBank
from clinprompt.adapters.files import bank_of
from clinprompt.adapters.joint import JointBank
from clinprompt.adapters.lora import LoraBank
from clinprompt.adapters.prefix import PrefixBank, layer_names
from clinprompt.adapters.sites import expert_sites
from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import TaskPrompt


@torch.no_grad()
def changes(backbone: Backbone, task: TaskPrompt) -> list[dict[str, Any]]:
    """One line per changed part: `part`, the `norm` of the change, and its ratio to what was there (`relative`).

    LoRA: `alpha / rank · B A` beside W. Prefix: keys and values per layer; nothing was there, so `relative` is None.
    A multi-task adapter: its update beside W, or, where it routes by its input, the norms of its parameters.
    All weights: the difference to the backbone's. 4-bit weights have no norm to compare with: None.
    """
    bank = bank_of(backbone, task)
    if isinstance(bank, JointBank):
        return [*_prefix(backbone, bank.prefix), *(_lora(backbone, bank.lora, name) for name in bank.lora.modules)]
    if isinstance(bank, FamilyBank):
        return _family(backbone, bank)
    if isinstance(bank, LoraBank):
        return [_lora(backbone, bank, name) for name in bank.modules]
    if isinstance(bank, PrefixBank):
        return _prefix(backbone, bank)
    own = dict(backbone.model.named_parameters())
    return [_line(name, values[0] - own[name].float(), own[name]) for name, values in bank.values().items()]


def _prefix(backbone: Backbone, bank: AdapterBank) -> list[dict[str, Any]]:
    return [
        _line(f"{layer} {name}", values[0, index], None)
        for name, values in bank.values().items()
        for index, layer in enumerate(layer_names(backbone, values.shape[1]))
    ]


def _family(backbone: Backbone, bank: FamilyBank) -> list[dict[str, Any]]:
    if not bank.mergeable:
        return [_line(name, values[0], None) for name, values in bank.values().items()]
    lines = []
    for name, update in bank.merged(0).items():
        site = bank.sites[name]
        weight = backbone.model.get_parameter(f"{site.module}.{site.weight}")
        own = weight if site.expert is None else weight[site.expert]
        lines.append(_line(name, update, own if weight.is_floating_point() else None))
    return lines


def _lora(backbone: Backbone, bank: LoraBank, name: str) -> dict[str, Any]:
    a, b = (bank.parameters[f"{name}.{half}"][0] for half in ("lora_A", "lora_B"))
    update = bank.scale * (b @ a)  # (out, in)
    expert = expert_sites(backbone, [name]).get(name)
    if expert is not None:
        return _line(name, update, backbone.model.get_parameter(f"{expert.module}.{expert.weight}")[expert.expert])
    module = backbone.model.get_submodule(name)
    weight = module.weight if module.weight.is_floating_point() else None
    return _line(name, update.T if isinstance(module, Conv1D) else update, weight)


def _line(part: str, change: Tensor, before: Tensor | None) -> dict[str, Any]:
    norm = float(change.norm())
    whole = None if before is None else float(before.float().norm())
    return {"part": part, "norm": round(norm, 5), "relative": round(norm / whole, 6) if whole else None}
