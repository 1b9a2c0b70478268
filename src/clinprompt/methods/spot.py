"""SPoT (Vu et al., arXiv 2110.07904): prompt tuning that starts from a prompt learned on source tasks.

The paper's source prompts are each tuned on its own task: the teachers, kept in a file of the metaprompt's form
(`undistilled`). Those of a metaprompt, `P* ∘ (u_k v_kᵀ)`, serve as well. The paper starts from the source task whose
prompt is most similar to a first prompt of the target, or from a weighted average; here the one with the lowest loss on
the target's training examples is taken [O], which costs forward passes only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clinprompt.methods.mpt import Start, initial_vectors
from clinprompt.prompts.artifact import Metaprompt
from clinprompt.prompts.bank import DirectBank


def spot_bank(metaprompt: Metaprompt, starts: Sequence[Start]) -> DirectBank:
    """One free prompt per start: "mean" (P* with the mean vectors), a source task's name, or weights of the sources."""
    vectors = [initial_vectors(metaprompt, start) for start in starts]
    return DirectBank(torch.stack([metaprompt.shared * (u @ v.T) for u, v in vectors]))


def undistilled(prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P* (l, d), u (T, l, l) and v (T, d, l) of which source prompts (T, l, d) are the products, bit for bit: P* of
    ones, u the identity, v the prompt transposed."""
    tasks, length, width = prompts.shape
    return torch.ones(length, width), torch.eye(length).repeat(tasks, 1, 1), prompts.transpose(1, 2).contiguous()
