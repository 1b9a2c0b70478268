"""Multitask prompt tuning (arXiv 2303.02861) as Clinical MPT uses it (arXiv 2604.06650).

Source side: `P_k = P* ∘ (u_k v_kᵀ)` for all source tasks at once. Target side, four modes:

- `full`: P*, u and v are all trained, from P* and the mean of the source vectors; collapsed to one prompt at the end.
- `vectors` (ours): P* stays frozen, only u and v are trained: l + d numbers per task at rank one.
- `group`: several targets share one trained P*: l·d + (l + d)·τ numbers for τ targets.
- `shared`: P* alone is trained, u and v stay: l·d numbers. The target side of the ablation without decomposition, whose
  metaprompt has u = v = 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clinprompt.prompts.artifact import Metaprompt
from clinprompt.prompts.bank import DecomposedBank, DirectBank, unit_vectors

Mode = Literal["full", "vectors", "group", "shared"]

OWN_SHARED: tuple[Mode, ...] = ("full", "shared")  # modes in which every target trains its own P*


def source_bank(
    start: Tensor, tasks: int, *, rank: int, noise: float, seed: int, decomposition: bool = True
) -> DecomposedBank:
    """One shared prompt (l, d) with unit task vectors for `tasks` source tasks: every task starts at P*.

    Without `decomposition` u = v = 1 are frozen, so that all tasks train one prompt (the ablation).
    """
    length, width = start.shape
    u, v = unit_vectors(tasks, length, width, rank if decomposition else 1, noise=noise * decomposition, seed=seed)
    return DecomposedBank(start[None], u.to(start.device), v.to(start.device), [0] * tasks, train_vectors=decomposition)


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
    groups = list(range(len(starts))) if mode in OWN_SHARED else [0] * len(starts)
    shared = metaprompt.shared.expand(max(groups) + 1, -1, -1)
    return DecomposedBank(shared, u, v, groups, train_shared=mode != "vectors", train_vectors=mode != "shared")


def decomposed_rates(bank: DecomposedBank, shared: float | Tensor, vectors: float | Tensor) -> dict[str, Tensor]:
    """Two learning rates: P*'s (one number or one per group) and the vectors' (one number or one per row)."""
    of_vectors = torch.as_tensor(vectors, dtype=torch.float32).expand(bank.rows).clone()
    of_shared = torch.as_tensor(shared, dtype=torch.float32).expand(bank.shared.shape[0]).clone()
    rates = {"shared": of_shared, "u": of_vectors, "v": of_vectors.clone()}
    return {name: rate for name, rate in rates.items() if name in bank.trainable()}


def stored_numbers(mode: Mode, length: int, width: int, rank: int = 1, tasks: int = 1) -> int:
    """Numbers trained for `tasks` targets, each: l·d + (l + d)·r for full, l·d for shared, (l + d)·r for vectors; a
    group has one P*."""
    vectors = 0 if mode == "shared" else (length + width) * rank
    if mode == "vectors":
        return vectors * tasks
    return length * width * (tasks if mode in OWN_SHARED else 1) + vectors * tasks
