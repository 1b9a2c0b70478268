"""Multitask prompt tuning (arXiv 2303.02861) as Clinical MPT uses it (arXiv 2604.06650).

Source side: `P_k = P* ∘ (u_k v_kᵀ)` for all source tasks at once. Target side, three modes:

- `full`: P*, u and v are all trained, from P* and the mean of the source vectors; collapsed to one prompt at the end.
- `vectors` (ours): P* stays frozen, only u and v are trained: l + d numbers per task at rank one.
- `group`: several targets share one trained P*: l·d + (l + d)·τ numbers for τ targets.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clinprompt.prompts.artifact import Metaprompt
from clinprompt.prompts.bank import DecomposedBank, DirectBank, unit_vectors

Mode = Literal["full", "vectors", "group"]


def source_bank(start: Tensor, tasks: int, *, rank: int, noise: float, seed: int) -> DecomposedBank:
    """One shared prompt (l, d) with unit task vectors for `tasks` source tasks: every task starts at P*."""
    length, width = start.shape
    u, v = unit_vectors(tasks, length, width, rank, noise=noise, seed=seed)
    return DecomposedBank(start[None], u.to(start.device), v.to(start.device), [0] * tasks)


def start_of_shared(teachers: DirectBank, first: Tensor, start: Literal["vocabulary", "teachers"]) -> Tensor:
    """P* before the source stage (l, d): where the teachers started (the paper's), or their mean (ours)."""
    return first if start == "vocabulary" else teachers.prompt.detach().mean(dim=0)


def initial_vectors(metaprompt: Metaprompt, start: str) -> tuple[Tensor, Tensor]:
    """u (l, r) and v (d, r) a target starts from: "mean" of the source tasks [P], or those of a named source task."""
    if start == "mean":
        return metaprompt.u.mean(dim=0), metaprompt.v.mean(dim=0)
    row = metaprompt.row(start)
    return metaprompt.u[row], metaprompt.v[row]


def target_bank(metaprompt: Metaprompt, starts: list[str], mode: Mode) -> DecomposedBank:
    """One row per adaptation, each starting from P* and the vectors that `starts` names."""
    vectors = [initial_vectors(metaprompt, start) for start in starts]
    u, v = torch.stack([u for u, _ in vectors]), torch.stack([v for _, v in vectors])
    groups = list(range(len(starts))) if mode == "full" else [0] * len(starts)
    shared = metaprompt.shared.expand(max(groups) + 1, -1, -1)
    return DecomposedBank(shared, u, v, groups, train_shared=mode != "vectors")


def decomposed_rates(bank: DecomposedBank, shared: float | Tensor, vectors: float | Tensor) -> dict[str, Tensor]:
    """Two learning rates: P*'s (one number or one per group) and the vectors' (one number or one per row)."""
    of_vectors = torch.as_tensor(vectors, dtype=torch.float32).expand(bank.rows).clone()
    of_shared = torch.as_tensor(shared, dtype=torch.float32).expand(bank.shared.shape[0]).clone()
    return {"shared": of_shared, "u": of_vectors, "v": of_vectors.clone()}


def stored_numbers(mode: Mode, length: int, width: int, rank: int = 1, tasks: int = 1) -> int:
    """Numbers trained for `tasks` targets: l·d + (l + d)·r each for full, (l + d)·r for vectors, P* once for group."""
    vectors = (length + width) * rank
    if mode == "vectors":
        return vectors * tasks
    return length * width * (tasks if mode == "full" else 1) + vectors * tasks
