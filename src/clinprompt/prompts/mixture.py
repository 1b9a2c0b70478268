"""Task vectors as learned mixtures of those of the source tasks (ours).

ATTEMPT (arXiv 2205.11961) mixes whole source prompts by attention over the input; here one set of gates per target
mixes the vectors u_k, v_k of a metaprompt, so that a target still ends as one prompt and as one pair of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clinprompt.prompts.bank import DecomposedBank

FLOOR = 1e-3
"""Least weight a source starts with: a gate at zero would have no gradient."""


class MixtureBank(DecomposedBank):
    """Rows whose vectors are `u = Σ_k softmax(a)_k u_k + own u`, and v alike with gates b of its own.

    sources: u (T, l, r) and v (T, d, r), frozen; `weights` (R, T): what softmax(a) and softmax(b) start at; `u`, `v`
    (R, …): the rows' own vectors, trained unless `train_own` is False.
    """

    sources_u: Tensor
    sources_v: Tensor

    def __init__(
        self,
        shared: Tensor,
        sources: tuple[Tensor, Tensor],
        weights: Tensor,
        own: tuple[Tensor, Tensor],
        group: Sequence[int] | Tensor,
        *,
        train_shared: bool = True,
        train_own: bool = True,
    ) -> None:
        super().__init__(shared, *own, group, train_shared=train_shared, train_vectors=train_own)
        if sources[0].shape[1:] != own[0].shape[1:] or sources[1].shape[1:] != own[1].shape[1:]:
            raise ValueError(f"sources {tuple(sources[0].shape)} do not fit vectors {tuple(own[0].shape)}")
        if weights.shape != (own[0].shape[0], sources[0].shape[0]):
            raise ValueError(f"weights must be (rows, sources), not {tuple(weights.shape)}")
        logits = weights.detach().to(torch.float32).clamp(min=FLOOR).log()
        self.gates_u, self.gates_v = nn.Parameter(logits.clone()), nn.Parameter(logits.clone())
        self.register_buffer("sources_u", sources[0].detach().to(torch.float32).clone())
        self.register_buffer("sources_v", sources[1].detach().to(torch.float32).clone())

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed vectors of rows (B,): u (B, l, r) and v (B, d, r)."""
        gates_u, gates_v = (gates.index_select(0, rows).softmax(dim=-1) for gates in (self.gates_u, self.gates_v))
        own_u, own_v = super().vectors(rows)
        mixed_u = torch.einsum("bt,tlr->blr", gates_u, self.sources_u)
        mixed_v = torch.einsum("bt,tdr->bdr", gates_v, self.sources_v)
        return mixed_u + own_u, mixed_v + own_v
