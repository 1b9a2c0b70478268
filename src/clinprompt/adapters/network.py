"""A prefix that a network produces (PrefixNAS, arXiv 2605.14055), in rows: learned embeddings → keys and values.

Row r has its own embeddings, network and projection: `[keys; values] of all layers = h W + b` with h (m, w) the
network's output; in T5 types all layers are those of `backbone.t5_prefix.attentions`, of all three kinds. W and b are
solved so that the prefix starts at the keys and values of a soft prompt, as a plain prefix does (`adapters.prefix`):
exactly if w ≥ m, else as near as rank w comes [O]. What is stored is the prefix, not the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.prefix import PrefixBank, placed, prefix_bank
from clinprompt.architecture.network import (
    Architecture,
    Slots,
    compute_network,
    network_shapes,
    solved_projection,
    start_network,
)
from clinprompt.architecture.relaxed import Relaxation
from clinprompt.backbone.model import Backbone

PROJECTION, BIAS = "projection", "bias"


@dataclass(frozen=True)
class PrefixShape:
    """Key/value heads of every layer (grouped-query models have fewer than query heads), and the width of one."""

    layers: int
    heads: int
    width: int

    @property
    def numbers(self) -> int:
        """Keys and values of one position in all layers."""
        return 2 * self.layers * self.heads * self.width


class NetworkBank(AdapterBank):
    """Rows of networks with the parameters of `architecture.network`, "projection" (R, w, n) and "bias" (R, n).

    `relaxation` weighs the candidates while an architecture is searched; the logits are not the bank's parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        slots: Slots,
        hidden: int,
        shape: PrefixShape,
        relaxation: Relaxation | None = None,
    ) -> None:
        super().__init__(parameters)
        self.slots, self.hidden, self.shape, self.relaxation = tuple(map(tuple, slots)), hidden, shape, relaxation

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.parameters["embeddings"].shape[1]

    @property
    def width(self) -> int:
        return self.parameters["embeddings"].shape[2]

    @property
    def architecture(self) -> Architecture:
        """Of a network whose slots hold one operation each."""
        names = tuple(name for (name,) in self.slots)
        return Architecture(operations=names, width=self.width, hidden=self.hidden, length=self.length)

    def prefix(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of these rows, each (n, layers, heads, m, head width); differentiable."""
        chosen = {name: values.index_select(0, rows) for name, values in self.parameters.items()}
        mixture = self.relaxation.weights() if self.relaxation else None
        hidden = compute_network(self.slots, chosen, mixture)
        flat = hidden @ chosen[PROJECTION] + chosen[BIAS][:, None]  # (n, m, 2·layers·heads·width)
        parts = flat.view(*flat.shape[:2], 2, self.shape.layers, self.shape.heads, self.shape.width)
        keys, values = parts.permute(2, 0, 3, 4, 1, 5).unbind(0)
        return keys, values

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """As a plain prefix; the network of every distinct row is computed once."""
        distinct, inverse = torch.unique(torch.tensor(list(rows), device=backbone.device), return_inverse=True)
        keys, values = self.prefix(distinct)
        with placed(backbone, keys, values, inverse):
            yield

    @torch.no_grad()
    def row(self, row: int) -> dict[str, Tensor]:
        """The prefix that the row's network produces: the network has done its work."""
        place = self.parameters[PROJECTION].device
        keys, values = self.prefix(torch.tensor([row], device=place))
        return {"keys": keys[0].cpu().clone(), "values": values[0].cpu().clone()}


def network_bank(backbone: Backbone, prompts: Tensor, architecture: Architecture, seeds: Sequence[int]) -> NetworkBank:
    """One network per prompt (R, m, d) and seed, whose prefix starts at that prompt's keys and values.

    m is the prompts' length. Raises BackboneError for encoder-decoder models of other types than T5's.
    """
    return solved_bank(backbone, prompts, architecture.slots, (architecture.width, architecture.hidden), seeds)


def solved_bank(
    backbone: Backbone,
    prompts: Tensor,
    slots: Slots,
    widths: tuple[int, int],
    seeds: Sequence[int],
    relaxation: Relaxation | None = None,
) -> NetworkBank:
    """As `network_bank`, for any slots; `widths`: of the positions and of the bottlenecks."""
    plain = prefix_bank(backbone, prompts)
    shape = prefix_shape(plain)
    width, hidden = widths
    parameters = start_network(slots, width, hidden, prompts.shape[1], seeds)
    parameters = {name: values.to(backbone.device) for name, values in parameters.items()}
    mixture = relaxation.weights().detach() if relaxation else None
    states = compute_network(slots, parameters, mixture)  # (R, m, w)
    parameters[PROJECTION], parameters[BIAS] = solved_projection(states, _flat(plain))
    return NetworkBank(parameters, slots, hidden, shape, relaxation)


def prefix_shape(bank: PrefixBank) -> PrefixShape:
    """The shape of a plain prefix's keys."""
    _, layers, heads, _, width = bank.parameters["keys"].shape
    return PrefixShape(layers, heads, width)


def network_parameters(architecture: Architecture, shape_numbers: int, length: int) -> int:
    """Numbers of one row: embeddings, operations, and the projection (w + 1) · n to n keys and values per position."""
    shapes = network_shapes(architecture.slots, architecture.width, architecture.hidden, length)
    return sum(prod(shape) for shape in shapes.values()) + (architecture.width + 1) * shape_numbers


@torch.no_grad()
def _flat(bank: PrefixBank) -> Tensor:
    """(R, m, 2·layers·heads·width) of keys and values (R, layers, heads, m, width)."""
    both = torch.stack([bank.parameters["keys"], bank.parameters["values"]])  # (2, R, layers, heads, m, width)
    return both.permute(1, 4, 0, 2, 3, 5).flatten(2)
