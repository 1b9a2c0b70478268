"""Adapters as plain weights: what they add to them, and the weights with it, for engines that know no adapters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from clinprompt.adapters.family import FamilyBank
from clinprompt.adapters.lora import LoraBank
from clinprompt.adapters.shared import SharedBank
from clinprompt.adapters.sites import every_site
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError, TrainingError
from clinprompt.prompts.bank import Bank


@torch.no_grad()
def deltas(bank: Bank, task: int = 0) -> dict[str, Tensor]:
    """What an adapter adds to the weights for one task (row): (out, in) by the names of `adapters.sites.sites`.

    Raises TrainingError for what is no sum with weights: prompts, prefixes, adapters that route by their input.
    """
    if isinstance(bank, SharedBank):
        return deltas(bank.bank)
    if isinstance(bank, FamilyBank):
        return bank.merged(task)
    if isinstance(bank, LoraBank):
        own = {name: values[task] for name, values in bank.parameters.items()}
        return {name: bank.scale * (own[f"{name}.lora_B"] @ own[f"{name}.lora_A"]) for name in bank.modules}
    raise TrainingError(f"{type(bank).__name__}: it adds nothing to weights, so it cannot be merged.")


@torch.no_grad()
def merged_weights(backbone: Backbone, added: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """New values of the changed weights, by parameter name and in their precision; the backbone stays as it is.

    Raises BackboneError for quantised weights.
    """
    known = every_site(backbone)
    found: dict[str, Tensor] = {}
    for name, delta in added.items():
        site = known[name]
        parameter = f"{site.module}.{site.weight}"
        weight = found.get(parameter, backbone.model.get_parameter(parameter))
        if not weight.is_floating_point():
            raise BackboneError(f"{backbone.name}: nothing can be merged into quantised weights; load it in bfloat16.")
        if site.expert is not None:
            changed = weight.clone() if parameter not in found else weight
            changed[site.expert] += delta.T.to(weight.dtype)
        else:
            stored = isinstance(backbone.model.get_submodule(site.module), Conv1D)
            changed = (weight.float() + (delta.T if stored else delta).float()).to(weight.dtype)
        found[parameter] = changed
    return found
