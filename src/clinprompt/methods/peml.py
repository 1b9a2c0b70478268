"""PEML (arXiv 2605.14055): a prefix from a network and LoRA at all projections, and its control with a plain prefix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clinprompt.adapters.joint import PREFIX, JointBank
from clinprompt.adapters.linear import ALL_LINEAR, Targets
from clinprompt.adapters.lora import lora_bank, lora_parameters
from clinprompt.adapters.network import network_bank, network_parameters
from clinprompt.adapters.prefix import prefix_bank, prefix_parameters
from clinprompt.architecture.network import Architecture
from clinprompt.backbone.model import Backbone

PLAIN_RATIO, NETWORK_RATIO = 10.0, 1.0
"""Learning rate of the prefix over LoRA's [O]. Plain keys and values are used to ten times LoRA's rate (the first
values of the two grids); a step of the projection moves every position by the sum of its w inputs, so a network is
not."""


def joint_bank(
    backbone: Backbone,
    prompts: Tensor,
    seeds: Sequence[int],
    architecture: Architecture | None,
    *,
    rank: int = 16,
    alpha: float = 16.0,
    targets: Targets = ALL_LINEAR,
) -> JointBank:
    """One row per prompt (R, m, d) and seed: a prefix that starts at the prompt's keys and values, and LoRA at zero.

    `architecture`: the network that produces the prefix (`peml`), None for plain keys and values (`lora+prefix`).
    Raises BackboneError for encoder-decoder models of other types than T5's.
    """
    if architecture is None:
        prefix = prefix_bank(backbone, prompts)
        return JointBank(prefix, lora_bank(backbone, seeds, rank=rank, alpha=alpha, targets=targets))
    network = network_bank(backbone, prompts, architecture, seeds)
    return JointBank(network, lora_bank(backbone, seeds, rank=rank, alpha=alpha, targets=targets))


def rate_factor(name: str, architecture: Architecture | None, ratio: float | None = None) -> float:
    """What the loop's learning rate is multiplied by for a parameter of a joint bank."""
    if not name.startswith(PREFIX):
        return 1.0
    return ratio or (PLAIN_RATIO if architecture is None else NETWORK_RATIO)


def joint_parameters(
    backbone: Backbone, length: int, architecture: Architecture | None, rank: int, targets: Targets = ALL_LINEAR
) -> int:
    """Numbers of one row that training changes."""
    return _prefix_numbers(backbone, length, architecture) + lora_parameters(backbone, rank, targets)


def joint_kept(backbone: Backbone, length: int, rank: int, targets: Targets = ALL_LINEAR) -> int:
    """Numbers of one row's file: plain keys and values, and LoRA."""
    return prefix_parameters(backbone, length) + lora_parameters(backbone, rank, targets)


def _prefix_numbers(backbone: Backbone, length: int, architecture: Architecture | None) -> int:
    if architecture is None:
        return prefix_parameters(backbone, length)
    return network_parameters(architecture, prefix_parameters(backbone, 1), length)
