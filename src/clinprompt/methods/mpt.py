"""Multitask prompt tuning (arXiv 2303.02861) as Clinical MPT uses it (arXiv 2604.06650).

Source side: `P_k = P* ∘ (u_k v_kᵀ)` for all source tasks at once. Target side, five modes:

- `full`: P*, u and v are all trained, from P* and the mean of the source vectors; collapsed to one prompt at the end.
- `vectors` (ours): P* stays frozen, only u and v are trained: l + d numbers per task at rank one.
- `group`: several targets share one trained P*: l·d + (l + d)·τ numbers for τ targets.
- `shared`: P* alone is trained, u and v stay: l·d numbers. The target side of the ablation without decomposition, whose
  metaprompt has u = v = 1.
- `frozen` (ours): nothing of the metaprompt is trained, only positions of the task's own before it
  (`prompts.own_positions`).

Beyond the papers, and off unless asked for: own positions in the other modes but `vectors`, a weighted mean of the
source vectors as start, more than the metaprompt's rank for u and v, and u, v as learned mixtures of the source vectors
(`prompts.mixture`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from clinprompt.prompts.artifact import Metaprompt, Mode
from clinprompt.prompts.bank import DecomposedBank, DirectBank, unit_vectors
from clinprompt.prompts.mixture import MixtureBank

Mixture = Literal["gates", "residual"]
Start = str | Tensor
"""Where a target's vectors start: "mean" of the sources, the name of one, or weights (T,) of all."""

OWN_SHARED: tuple[Mode, ...] = ("full", "shared")  # modes in which every target trains its own P*
MOVES_SHARED: tuple[Mode, ...] = (*OWN_SHARED, "group")
MOVES_VECTORS: tuple[Mode, ...] = ("full", "vectors", "group")


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


def initial_vectors(metaprompt: Metaprompt, start: Start) -> tuple[Tensor, Tensor]:
    """u (l, r) and v (d, r) a target starts from: "mean" of the source tasks [P], those of a named source task, or the
    mean by weights (T,) (ours)."""
    if isinstance(start, Tensor):
        return torch.tensordot(start, metaprompt.u, dims=1), torch.tensordot(start, metaprompt.v, dims=1)
    if start == "mean":
        return metaprompt.u.mean(dim=0), metaprompt.v.mean(dim=0)
    row = metaprompt.row(start)
    return metaprompt.u[row], metaprompt.v[row]


def source_weights(metaprompt: Metaprompt, start: Start) -> Tensor:
    """(T,) the same start as weights of the sources, which add to one."""
    if isinstance(start, Tensor):
        return start
    count = metaprompt.u.shape[0]
    if start == "mean":
        return torch.full((count,), 1 / count)
    weights = torch.zeros(count)
    weights[metaprompt.row(start)] = 1.0
    return weights


def target_bank(
    metaprompt: Metaprompt,
    starts: Sequence[Start],
    mode: Mode,
    *,
    rank: int | None = None,
    mixture: Mixture | None = None,
    seeds: Sequence[int] | None = None,
) -> DecomposedBank:
    """One row per adaptation, each starting from P* and the vectors that `starts` names.

    `rank`: more than the metaprompt's; the further vectors of row i are drawn by `seeds[i]` and change nothing yet.
    `mixture`: u and v as gates over the source vectors, alone ("gates") or with vectors of their own ("residual").
    """
    seeds = list(seeds) if seeds is not None else [0] * len(starts)
    groups = list(range(len(starts))) if mode in OWN_SHARED else [0] * len(starts)
    shared = metaprompt.shared.expand(max(groups) + 1, -1, -1)
    if mixture is None:
        vectors = [initial_vectors(metaprompt, start) for start in starts]
        u, v = torch.stack([u for u, _ in vectors]), torch.stack([v for _, v in vectors])
        u, v = widened(u, v, rank, seeds)
        return DecomposedBank(
            shared, u, v, groups, train_shared=mode in MOVES_SHARED, train_vectors=mode in MOVES_VECTORS
        )
    sources = widened(metaprompt.u, metaprompt.v, rank, None)
    zeros = [torch.zeros(len(starts), *t.shape[1:]) for t in (metaprompt.u, metaprompt.v)]
    return MixtureBank(
        shared,
        sources,
        torch.stack([source_weights(metaprompt, start) for start in starts]),
        widened(zeros[0], zeros[1], rank, seeds),
        groups,
        train_shared=mode in MOVES_SHARED,
        train_own=mixture == "residual",
    )


def widened(u: Tensor, v: Tensor, rank: int | None, seeds: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """u (R, l, r₀) and v (R, d, r₀) with vectors up to `rank`, and the same product: the further v are zero, the
    further u drawn as those of source tasks (`unit_vectors`) by a seed per row; zero too without seeds."""
    rows, length, known = u.shape
    if rank is None or rank == known:
        return u, v
    more_u, more_v = u.new_zeros(rows, length, rank - known), v.new_zeros(rows, v.shape[1], rank - known)
    if seeds is not None:
        drawn = [unit_vectors(1, length, v.shape[1], rank, seed=seed)[0][0, :, known:] for seed in seeds]
        more_u = torch.stack(drawn).to(u.device)
    return torch.cat([u, more_u], dim=2), torch.cat([v, more_v], dim=2)


def decomposed_rates(
    bank: DecomposedBank, shared: float | Tensor, vectors: float | Tensor, gate_ratio: float = 1.0
) -> dict[str, Tensor]:
    """Two learning rates: P*'s (one number or one per group) and the vectors' (one number or one per row); gates of a
    mixture have `gate_ratio` times the vectors'."""
    of_vectors = torch.as_tensor(vectors, dtype=torch.float32).expand(bank.rows).clone()
    of_shared = torch.as_tensor(shared, dtype=torch.float32).expand(bank.shared.shape[0]).clone()
    rates = {"shared": of_shared, "u": of_vectors, "v": of_vectors.clone()}
    rates |= {"gates_u": of_vectors * gate_ratio, "gates_v": of_vectors * gate_ratio}
    return {name: rate for name, rate in rates.items() if name in bank.trainable()}


def stored_numbers(
    mode: Mode,
    length: int,
    width: int,
    rank: int = 1,
    tasks: int = 1,
    *,
    mixture: Mixture | None = None,
    sources: int = 0,
    own: int = 0,
) -> int:
    """Numbers trained for `tasks` targets, each: l·d + (l + d)·r for full, l·d for shared, (l + d)·r for vectors, none
    for frozen; a group has one P*. A mixture adds two gates per source, and has vectors of its own unless it is gates
    alone; m `own` positions add m·d."""
    vectors = (length + width) * rank if mode in MOVES_VECTORS and mixture != "gates" else 0
    vectors += 2 * sources if mixture else 0
    shared = length * width if mode in MOVES_SHARED else 0
    return shared * (tasks if mode in OWN_SHARED else 1) + (vectors + own * width) * tasks
