"""AdamW whose every row has its own learning rate, clipping, step count and life.

Rows of a bank are independent runs. Ordinary AdamW over the stacked tensor would couple them through global norm
clipping and a shared step count; here each slice of each parameter is its own optimiser, and a slice that took no
part in a batch does not move (no momentum drift for tasks that were not sampled).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class RowAdamW:
    """AdamW (Loshchilov & Hutter, 2019) over slices of the first dimension of each parameter."""

    parameters: Mapping[str, nn.Parameter]
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0  # largest gradient norm of one slice; 0 switches clipping off
    state: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, parameter in self.parameters.items():
            self.state[f"{name}.first"] = torch.zeros_like(parameter)
            self.state[f"{name}.second"] = torch.zeros_like(parameter)
            self.state[f"{name}.count"] = torch.zeros(parameter.shape[0], dtype=torch.long, device=parameter.device)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, rates: Mapping[str, Tensor], active: Mapping[str, Tensor]) -> None:
        """Update the active slices of every parameter; `rates[name]` and `active[name]` are (slices,)."""
        for name, parameter in self.parameters.items():
            chosen = active[name].nonzero().squeeze(1)
            if parameter.grad is None or not len(chosen):
                continue
            self._update(name, parameter, chosen, rates[name][chosen])

    def _update(self, name: str, parameter: nn.Parameter, chosen: Tensor, rate: Tensor) -> None:
        assert parameter.grad is not None
        broadcast = (-1,) + (1,) * (parameter.ndim - 1)
        gradient = _clipped(parameter.grad[chosen], self.clip)
        beta1, beta2 = self.betas
        count = self.state[f"{name}.count"][chosen] + 1
        first = self.state[f"{name}.first"][chosen].mul_(beta1).add_(gradient, alpha=1 - beta1)
        second = self.state[f"{name}.second"][chosen].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        correction1 = (1 - beta1 ** count.double()).to(first.dtype).view(broadcast)
        correction2 = (1 - beta2 ** count.double()).to(first.dtype).view(broadcast)
        rate = rate.to(first.dtype).view(broadcast)
        values = parameter[chosen] * (1 - rate * self.weight_decay)
        values -= rate * (first / correction1) / ((second / correction2).sqrt() + self.epsilon)
        parameter[chosen] = values
        self.state[f"{name}.first"][chosen] = first
        self.state[f"{name}.second"][chosen] = second
        self.state[f"{name}.count"][chosen] = count


def _clipped(gradient: Tensor, largest: float) -> Tensor:
    """Each slice scaled down to norm `largest` if it is longer."""
    if largest <= 0:
        return gradient
    norms = gradient.flatten(1).norm(dim=1)
    scale: Tensor = (largest / (norms + 1e-6)).clamp(max=1.0)
    return gradient * scale.view((-1,) + (1,) * (gradient.ndim - 1))
