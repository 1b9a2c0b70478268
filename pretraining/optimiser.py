"""Muon for matrices, Adam for embeddings and norms; state as named tensors, so that it saves as safetensors.

Muon: K. Jordan et al. 2024, "Muon: an optimizer for hidden layers" (Newton–Schulz orthogonalised momentum).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Newton–Schulz iteration on a stack of matrices (n, rows, columns), rows ≤ columns: singular values go to ~1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.to(matrices.dtype)
    return result


class Optimiser:
    """One step over all parameters. Learning rates are given at each step; nothing here knows about schedules."""

    def __init__(self, model: nn.Module, *, momentum: float = 0.95, decay: float = 0.02) -> None:
        self.momentum, self.decay = momentum, decay
        self.betas, self.epsilon = (0.9, 0.98), 1e-9
        named = dict(model.named_parameters())
        self.matrices = {n: p for n, p in named.items() if p.dim() == 2 and ".layers." in n}
        self.others = {n: p for n, p in named.items() if n not in self.matrices and p.numel()}
        self.count = 0
        self.state: dict[str, Tensor] = {f"muon.{n}": torch.zeros_like(p) for n, p in self.matrices.items()}
        for name, parameter in self.others.items():
            self.state[f"first.{name}"] = torch.zeros_like(parameter)
            self.state[f"second.{name}"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, matrix_rate: float, other_rate: float) -> None:
        self.count += 1
        self._muon(matrix_rate)
        correction = (1 - self.betas[1] ** self.count) ** 0.5 / (1 - self.betas[0] ** self.count)
        for name, parameter in self.others.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            first, second = self.state[f"first.{name}"], self.state[f"second.{name}"]
            first.lerp_(gradient, 1 - self.betas[0])
            second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
            parameter.addcdiv_(first, second.sqrt().add_(self.epsilon), value=-other_rate * correction)
            parameter.grad = None

    def _muon(self, rate: float) -> None:
        """Matrices of one shape are orthogonalised together; tall ones are transposed for it."""
        groups: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor, bool]]] = {}
        for name, parameter in self.matrices.items():
            if parameter.grad is None:
                continue
            velocity = self.state[f"muon.{name}"]
            velocity.lerp_(parameter.grad, 1 - self.momentum)
            update = parameter.grad.lerp(velocity, self.momentum)  # Nesterov
            parameter.grad = None
            tall = update.shape[0] > update.shape[1]
            update = update.T if tall else update
            groups.setdefault((update.shape[0], update.shape[1]), []).append((parameter, update, tall))
        for members in groups.values():
            updates = orthogonalise(torch.stack([update for _, update, _ in members]))
            for (parameter, _, tall), update in zip(members, updates, strict=True):
                rows, columns = parameter.shape
                parameter.mul_(1 - rate * self.decay)
                parameter.add_(update.T if tall else update, alpha=-rate * max(1.0, rows / columns) ** 0.5)
