"""SPoT (Vu et al., arXiv 2110.07904): prompt tuning that starts from a prompt learned on source tasks.

The source prompts are those of a metaprompt, `P* ∘ (u_k v_kᵀ)`. The paper starts from the source task whose prompt is
most similar to a first prompt of the target, or from a weighted average; here the one with the lowest loss on the
target's training examples is taken [O], which costs forward passes only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clinprompt.methods.mpt import Start, initial_vectors
from clinprompt.prompts.artifact import Metaprompt
from clinprompt.prompts.bank import DirectBank


def spot_bank(metaprompt: Metaprompt, starts: Sequence[Start]) -> DirectBank:
    """One free prompt per start: "mean" (P* with the mean vectors), a source task's name, or weights of the sources."""
    vectors = [initial_vectors(metaprompt, start) for start in starts]
    return DirectBank(torch.stack([metaprompt.shared * (u @ v.T) for u, v in vectors]))
