"""LoRA (Hu et al., arXiv 2106.09685) in rows: every row has its own A and B at every adapted linear layer.

A layer computes `W x + alpha / rank · B[row] A[row] x`, with A (R, r, in) and B (R, out, r) and each example's row, in
batched products; the frozen `W x` is the layer's own and shared by all rows. In gpt-oss-type models also each expert's
two projections are such layers. A starts Kaiming-uniform with a = √5, that
is uniform in ±1/√in, B at zero, as in PEFT: every row starts as the backbone itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinprompt.adapters.bank import AdapterBank, only_row
from clinprompt.adapters.family import down, gated, up
from clinprompt.adapters.linear import ALL_LINEAR, Targets
from clinprompt.adapters.sites import Positions, adapted, expert_sites, sites
from clinprompt.backbone.lean_llama import places
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError


class LoraBank(AdapterBank):
    """Rows of LoRA; parameters are called "<module>.lora_A" (R, r, in) and "<module>.lora_B" (R, out, r)."""

    def __init__(self, parameters: Mapping[str, Tensor], alpha: float) -> None:
        super().__init__(parameters)
        self.alpha = alpha
        self.modules = [name.removesuffix(".lora_A") for name in self.parameters if name.endswith(".lora_A")]

    @property
    def rank(self) -> int:
        return self.parameters[f"{self.modules[0]}.lora_A"].shape[1]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """Every adapted layer adds its update to its own output."""
        single = only_row(rows)
        index = torch.tensor(list(rows), device=backbone.device)
        handles = []
        experts = expert_sites(backbone, self.modules)
        update_expert = partial(self._at_expert, single)
        try:
            for name in self.modules:
                if name in experts:
                    continue
                a, b = self.parameters[f"{name}.lora_A"], self.parameters[f"{name}.lora_B"]
                update = _Update(a, b, self.scale, index, single)
                handles.append(backbone.model.get_submodule(name).register_forward_hook(update))
            with adapted(backbone, experts, rows, update_expert, needs_positions=single is None):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _at_expert(self, single: int | None, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """What an expert's projection adds to positions (n, in) of one row, or of several: (n, out)."""
        a, b = (self.parameters[f"{site}.lora_{half}"].to(values.dtype) for half in "AB")
        if at is None:
            assert single is not None
            return self.scale * functional.linear(functional.linear(values, a[single]), b[single])
        # All rows that are here, and of each position only its own: a matrix per position would not fit.
        present, place = torch.unique(at.tasks, return_inverse=True)
        mine = functional.one_hot(place, len(present)).to(values.dtype)
        return self.scale * up(gated(down(values, a[present]), mine), b[present])


class _Update:
    """Forward hook of one linear layer: adds `scale · B A x`, each example with its row's A and B."""

    def __init__(self, a: Tensor, b: Tensor, scale: float, rows: Tensor, single: int | None) -> None:
        self.a, self.b, self.scale, self.rows, self.single = a, b, scale, rows, single

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        values: Tensor = inputs[0]
        if self.single is not None:
            a, b = self.a[self.single].to(values.dtype), self.b[self.single].to(values.dtype)
            return output + self.scale * functional.linear(functional.linear(values, a), b)
        # index_select: its backward pass adds up by rows faster than that of a[rows].
        a = self.a.index_select(0, self.rows).to(values.dtype)
        b = self.b.index_select(0, self.rows).to(values.dtype)
        return output + by_example(values, lambda x: self.scale * ((x @ a.transpose(1, 2)) @ b.transpose(1, 2)))


def by_example(values: Tensor, compute: Any) -> Tensor:
    """`compute` (B, S, in) → (B, S, out) on the input of a linear layer, whatever its form.

    (n, in) inputs are the label positions of the lean LLaMA path, or all positions of a batch in one dimension (no
    batch of mixed rows has that form in a dense model). Raises BackboneError for what cannot be told apart.
    """
    if values.ndim == 3:
        found: Tensor = compute(values)
        return found
    at = places()
    if values.ndim != 2 or at is None or len(at.owner) != len(values):
        raise BackboneError(
            "this model feeds a linear layer with positions of several examples at once, so rows cannot be told apart "
            "there. Train one row at a time, or name other targets."
        )
    where = (at.owner, at.offset)
    padded = values.new_zeros(at.examples, at.widest, values.shape[1]).index_put(where, values)
    picked: Tensor = compute(padded)[where]
    return picked


def lora_bank(
    backbone: Backbone, seeds: Sequence[int], *, rank: int = 16, alpha: float = 16.0, targets: Targets = ALL_LINEAR
) -> LoraBank:
    """One row per seed, each starting as the backbone itself. Raises TrainingError for targets that do not exist,
    BackboneError for all linear layers of a mixture whose experts are not known."""
    modules = lora_sites(backbone, targets)
    starts: dict[str, list[Tensor]] = {name: [] for name in modules}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for name, (inside, _) in modules.items():
            uniform = torch.rand(rank, inside, generator=generator) * 2 - 1
            starts[name].append(uniform / inside**0.5)
    parameters: dict[str, Tensor] = {}
    for name, (_, outside) in modules.items():
        parameters[f"{name}.lora_A"] = torch.stack(starts[name]).to(backbone.device)
        parameters[f"{name}.lora_B"] = torch.zeros(len(seeds), outside, rank, device=backbone.device)
    return LoraBank(parameters, alpha)


def lora_sites(backbone: Backbone, targets: Targets = ALL_LINEAR) -> dict[str, tuple[int, int]]:
    """The adapted layers by the names of `sites.sites`, with their (in, out)."""
    chosen = sites(backbone, ALL_LINEAR if targets == ALL_LINEAR else tuple(targets))
    return {name: (site.inside, site.outside) for name, site in chosen.items()}


def lora_parameters(backbone: Backbone, rank: int, targets: Targets = ALL_LINEAR) -> int:
    """Numbers of one row: rank · Σ (in + out)."""
    return sum(rank * (inside + outside) for inside, outside in lora_sites(backbone, targets).values())
