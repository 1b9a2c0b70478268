"""Examples into micro-batches: similar lengths together, a bounded number of padded tokens each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone

CPU_TOKENS = 512
"""Tokens per forward pass and thread on a CPU: a layer's activations then stay in the cores' caches. Measured at width
256: on one core 3,300 tokens/s with 512, 3,000 with 1,024, 2,000 with 4,096; on two cores 5,800 with 512 in all, 7,500
with 1,024."""


@dataclass(frozen=True)
class TaskExamples:
    """The encoded examples of one task; `skipped` counts those that do not fit the backbone's context."""

    name: str
    train: list[Encoded]
    validation: list[Encoded] = field(default_factory=list)
    skipped: int = 0


def chunks(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices cut into runs of similar length whose padded size stays within `token_budget` (one example always fits).

    Longest first, so that the largest allocation comes first and a lack of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found: list[list[int]] = []
    current: list[int] = []
    for index in order:
        if current and (len(current) + 1) * lengths[current[0]] > token_budget:
            found.append(current)
            current = []
        current.append(index)
    if current:
        found.append(current)
    return found


def forward_tokens(backbone: Backbone, most: int) -> int:
    """Padded tokens per forward pass: `most` on an accelerator, on a CPU no more than stay in its cache."""
    return min(most, CPU_TOKENS * torch.get_num_threads()) if backbone.device.type == "cpu" else most


def padded_share(lengths: Sequence[int], parts: Sequence[Sequence[int]]) -> float:
    """Fraction of the computed tokens that are padding."""
    real = sum(lengths)
    paid = sum(max(lengths[i] for i in part) * len(part) for part in parts)
    return 1 - real / paid if paid else 0.0
