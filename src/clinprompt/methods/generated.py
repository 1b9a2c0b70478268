"""PEML meets MPT (ours; neither paper has it): a searched network produces the metaprompt's P* while it is learned.

`P* = h W + b` with h (l, w) the network of `architecture.network` on learned embeddings, and `P_k = P* ∘ (u_k v_kᵀ)` on
top as in MPT (arXiv 2303.02861, §3.1). The prompt is at the input, not in keys and values as PEML's prefix (arXiv
2605.14055), so that it bakes. W and b are solved so that P* starts where MPT's does: exactly if w ≥ l. Afterwards P* is
folded into a plain metaprompt; what adapts, bakes or serves it knows nothing of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from clinprompt.architecture.network import (
    Architecture,
    Slots,
    compute_network,
    network_shapes,
    solved_projection,
    start_network,
)
from clinprompt.prompts.bank import PromptModule, unit_vectors

PROJECTION, BIAS = "projection", "bias"
_DOT = ":"  # a module's parameters cannot have dots in their names


class GeneratedBank(PromptModule):
    """Rows are tasks: one network for all, with `architecture.network`'s parameters of one row, "projection" (1, w, d)
    and "bias" (1, d); u (T, l, r) and v (T, d, r)."""

    def __init__(
        self, slots: Slots, network: Mapping[str, Tensor], u: Tensor, v: Tensor, *, train_vectors: bool = True
    ) -> None:
        super().__init__()
        self.slots = tuple(map(tuple, slots))
        values = {name.replace(".", _DOT): value.detach().to(torch.float32).clone() for name, value in network.items()}
        self.network = nn.ParameterDict({name: nn.Parameter(value) for name, value in values.items()})
        self.u = nn.Parameter(u.detach().to(torch.float32).clone(), requires_grad=train_vectors)
        self.v = nn.Parameter(v.detach().to(torch.float32).clone(), requires_grad=train_vectors)

    @property
    def rows(self) -> int:
        return self.u.shape[0]

    @property
    def length(self) -> int:
        return self.u.shape[1]

    @property
    def width(self) -> int:
        """Of the network's positions."""
        return int(self.network[PROJECTION].shape[1])

    def generated(self) -> Tensor:
        """P* (l, d), differentiable."""
        parameters = {name.replace(_DOT, "."): value for name, value in self.network.items()}
        hidden = compute_network(self.slots, parameters)  # (1, l, w)
        prompt: Tensor = hidden @ parameters[PROJECTION] + parameters[BIAS][:, None]
        return prompt[0]

    def compose(self, rows: Tensor) -> Tensor:
        """(B,) → (B, l, d)."""
        u, v = self.u.index_select(0, rows), self.v.index_select(0, rows)
        return self.generated() * torch.einsum("blr,bdr->bld", u, v)

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """Every task uses the only network, and slice k of its own vectors."""
        return rows * 0 if name.startswith("network.") else rows


def generated_bank(
    start: Tensor,
    tasks: int,
    architecture: Architecture,
    *,
    rank: int,
    noise: float,
    seed: int,
    decomposition: bool = True,
) -> GeneratedBank:
    """P* at `start` (l, d), every task at P*, as `methods.mpt.source_bank`. The architecture's length is not read: the
    prompt's is that of `start`."""
    length, width = start.shape
    u, v = unit_vectors(tasks, length, width, rank if decomposition else 1, noise=noise * decomposition, seed=seed)
    network = start_network(architecture.slots, architecture.width, architecture.hidden, length, [seed])
    network = {name: value.to(start.device) for name, value in network.items()}
    states = compute_network(architecture.slots, network)
    network[PROJECTION], network[BIAS] = solved_projection(states, start.detach()[None].float())
    vectors = (u.to(start.device), v.to(start.device))
    return GeneratedBank(architecture.slots, network, *vectors, train_vectors=decomposition)


def generated_rates(bank: GeneratedBank, shared: float, vectors: float) -> dict[str, Tensor]:
    """Learning rates: the vectors' own, and of the network P*'s over w: one step of W then moves a number of P*, a sum
    of w products with states near one, as far as a step of P* itself would [O]."""
    rates = {name: torch.full((p.shape[0],), shared / bank.width) for name, p in bank.trainable().items()}
    return rates | {name: torch.full((bank.rows,), vectors) for name in ("u", "v") if name in rates}


def generated_numbers(architecture: Architecture, length: int, width: int) -> int:
    """Trained numbers of the network and its projection to a prompt (l, d)."""
    shapes = network_shapes(architecture.slots, architecture.width, architecture.hidden, length)
    return sum(prod(shape) for shape in shapes.values()) + (architecture.width + 1) * width
