"""Continuous relaxation of the choice in every slot (DARTS, arXiv 1806.09055), by three rules.

- softmax: every candidate takes part with softmax(logits / τ);
- gumbel: softmax((logits + g) / τ) with Gumbel noise g, new at every step (arXiv 1611.01144);
- straight-through: the candidate that gumbel would favour computes alone, the gradient is that of gumbel.

τ falls from a start to an end over the search, by a constant factor per step [O].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Rule = Literal["softmax", "gumbel", "straight-through"]


@dataclass
class Relaxation:
    """The logits (slots, candidates) of a search and how they become weights now.

    `noise`: Gumbel noise of this step; None: none, as for measuring. `fixed`: weights to use instead (the argmax)."""

    logits: nn.Parameter
    rule: Rule = "softmax"
    temperature: float = 1.0
    noise: Tensor | None = None
    fixed: Tensor | None = None

    def weights(self) -> Tensor:
        """(slots, candidates), each slot's adding up to one; differentiable in the logits unless fixed."""
        if self.fixed is not None:
            return self.fixed
        shaken = self.logits if self.noise is None else self.logits + self.noise
        soft = torch.softmax(shaken / self.temperature, dim=-1)
        if self.rule != "straight-through" or self.noise is None:
            return soft
        return one_hot(soft) + soft - soft.detach()

    def entropies(self) -> list[float]:
        """Per slot, of softmax(logits), as a share of the greatest possible: 1 undecided, 0 decided."""
        return entropies(self.logits.detach())


def entropies(logits: Tensor) -> list[float]:
    """Normalised entropy of softmax(logits) per slot; 0 for a slot with one candidate."""
    if logits.shape[-1] == 1:
        return [0.0] * len(logits)
    logs = torch.log_softmax(logits.double(), dim=-1)
    entropy = -(logs.exp() * logs).sum(-1) / torch.log(torch.tensor(float(logits.shape[-1])))
    return [float(value) for value in entropy]


def one_hot(weights: Tensor) -> Tensor:
    """1 at the largest of each slot, else 0."""
    return torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1.0).detach()


def gumbel(shape: torch.Size, seed: int, step: int) -> Tensor:
    """Gumbel noise of a step, a function of seed and step only, so that resuming is exact."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    uniform = torch.rand(shape, generator=generator).clamp(1e-10, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def annealed(first: float, last: float, done: float) -> float:
    """τ after the share `done` (0 to 1) of the search."""
    return float(first * (last / first) ** done)
