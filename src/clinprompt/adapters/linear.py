"""The linear layers of a model, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError

ALL_LINEAR: Literal["all-linear"] = "all-linear"
Targets = Literal["all-linear"] | Sequence[str]


def target_modules(backbone: Backbone, targets: Targets = ALL_LINEAR) -> dict[str, tuple[int, int]]:
    """Names of the adapted linear layers in the model, with their (in, out); "all-linear" is all but the output head.

    A target is the last part of a name or several ("q_proj", "self_attn.q_proj", "layers.0.mlp.up_proj").
    """
    head = backbone.model.get_output_embeddings()
    linear = {
        name: _sizes(module)
        for name, module in backbone.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    if targets == ALL_LINEAR:
        return linear
    for target in targets:
        if not any(_called(name, target) for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise TrainingError(f"lora.targets: no linear layer is called {target!r}. Known: {known}.")
    return {name: sizes for name, sizes in linear.items() if any(_called(name, target) for target in targets)}


def _called(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):  # GPT-2's linear layer, stored transposed
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features
