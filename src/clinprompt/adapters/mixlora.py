"""MixLoRA (arXiv 2404.15159): the feed-forward block as a mixture of itself under different LoRAs, beside LoRA in
attention.

    FFN'(x) = Σ_{i in top-2 of p} p_i / (p_j + p_k) · FFN_i(x),      p = softmax(W_r x)
    FFN_i: every projection is W x + s · B_i A_i x;      attention projections: W x + s · B A x;      s = alpha / r

Every position takes its two likeliest of N = 8 experts; r = 8, alpha = 16, balance loss weight 0.01 [P, code]. `A`
Kaiming-uniform, `B` zero, so that it starts as the backbone; `W_r` (N, d) ~ N(0, 0.02). The balance loss is
N · Σ_i F_i P_i, F_i the share of positions whose likeliest expert is i and P_i the mean of p_i [R], averaged over the
blocks [O]; padding counts as text. The block runs once per chosen expert, so feed-forward blocks cost twice as much.
It routes by its input and cannot be merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from clinprompt.adapters.balanced import BalancedBank
from clinprompt.adapters.family import Start, constant, down, kaiming, normal, up, wide
from clinprompt.adapters.sites import Positions, Site, ffn_block, restore_forward, sites
from clinprompt.backbone.flops import passed_parameters
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError


class MixLoraSettings(BaseModel):
    """MixLoRA; defaults are those of its code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=8, ge=1, description="of each expert, and in attention")
    alpha: float = Field(default=16.0, gt=0, description="scale is alpha / rank")
    experts: int = Field(default=8, ge=2)
    top: int = Field(default=2, ge=1, description="experts per position")
    balance: float = Field(default=0.01, ge=0, description="weight of the balance loss")

    @property
    def targets(self) -> Literal["all-linear"]:
        """Attention and feed-forward projections: all linear layers."""
        return "all-linear"


class MixLoraBank(BalancedBank):
    """Per feed-forward site "A" (1, N, r, in), "B" (1, N, out, r), per attention site the same with N = 1; per block
    "router" (1, N, d)."""

    method = "mixlora"
    settings_type = MixLoraSettings
    needs_positions = False
    mergeable = False

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        settings: MixLoraSettings,
        chosen: dict[str, Site],
        tasks: int,
        seed: int = 0,
    ) -> None:
        super().__init__(parameters, settings, chosen, tasks, seed)
        self._expert = 0

    @classmethod
    def plan(cls, chosen: Mapping[str, Site], tasks: int, settings: MixLoraSettings, width: int) -> dict[str, Start]:
        """As in the module's text. Raises BackboneError where no feed-forward block is known: LoRA would remain."""
        if not blocks(chosen):
            raise BackboneError(
                "mixlora: this model's feed-forward blocks are not known here (modules called mlp or DenseReluDense), "
                "so there is nothing to route. Use loramoe, which routes at single layers, or another method."
            )
        found: dict[str, Start] = {}
        for name, site in chosen.items():
            experts = settings.experts if is_ffn(name) else 1
            found[f"{name}.A"] = ((1, experts, settings.rank, site.inside), kaiming)
            found[f"{name}.B"] = ((1, experts, site.outside, settings.rank), constant(0))
        for block in blocks(chosen):
            found[f"{block}.router"] = ((1, settings.experts, width), normal(0.02))
        return found

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """Every feed-forward block runs under the experts its router chooses."""
        replaced = []
        with super().inside(backbone, rows, tasks):
            try:
                for name in blocks(self.sites):
                    block = backbone.model.get_submodule(name)
                    replaced.append((block, vars(block).get("forward")))
                    block.forward = _Routed(self, name, block.forward)
                yield
            finally:
                for block, before in replaced:
                    restore_forward(block, before)

    def update(self, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """(…, in) → (…, out), under the expert that runs."""
        expert = self._expert if is_ffn(site) else 0
        a, b = (self.part(site, name, values)[expert : expert + 1] for name in ("A", "B"))
        added: Tensor = self.settings.alpha / self.settings.rank * up(down(values, a).flatten(-2), b)
        return added

    def routed(self, block: str, run: Any, hidden: Tensor) -> Any:
        """The block on (B, S, d), each position under its chosen experts."""
        flat = hidden.flatten(0, -2)
        likely = wide(torch.nn.functional.linear(flat, self.part(block, "router", flat))).softmax(-1)  # (n, N)
        chosen, experts = likely.topk(min(self.settings.top, self.settings.experts))
        weights = (chosen / chosen.sum(-1, keepdim=True)).to(flat.dtype)
        if torch.is_grad_enabled():
            self.note_imbalance(_imbalance(likely))
        mixed, rest = torch.zeros_like(flat), None
        for expert in sorted(set(experts.flatten().tolist())):
            position, slot = torch.where(experts == expert)
            self._expert = expert
            found = run(flat[position][None])
            if isinstance(found, tuple):  # gpt-oss's block also returns its own router's scores, which nobody reads
                found, rest = found[0], found[1:]
            mixed = mixed.index_add(0, position, weights[position, slot, None] * found[0])
        mixed = mixed.view_as(hidden)
        return mixed if rest is None else (mixed, *rest)


class _Routed:
    """The `forward` of a block while the adapter is applied."""

    def __init__(self, bank: MixLoraBank, name: str, run: Any) -> None:
        self.bank, self.name, self.run = bank, name, run

    def __call__(self, hidden: Tensor) -> Any:
        return self.bank.routed(self.name, self.run, hidden)


def passed_numbers(backbone: Backbone, settings: MixLoraSettings) -> tuple[int, int]:
    """What one position passes: trained numbers (of its `top` experts, not of all), and frozen weights beyond one pass
    of the backbone: those of the feed-forward blocks again for every expert but the first."""
    chosen, top = sites(backbone, settings.targets), min(settings.top, settings.experts)
    trained = 0
    for name, (shape, _) in MixLoraBank.plan(chosen, 1, settings, backbone.width).items():
        routed = is_ffn(name) and not name.endswith(".router")
        trained += math.prod(shape) * top // settings.experts if routed else math.prod(shape)
    frozen = sum(passed_parameters(backbone, f"{block}.") for block in blocks(chosen))
    return trained, (top - 1) * frozen


def is_ffn(site: str) -> bool:
    """Whether a site lies in a feed-forward block."""
    return bool({"mlp", "DenseReluDense"} & set(site.split(".")))


def blocks(chosen: Mapping[str, Site]) -> list[str]:
    """Names of the feed-forward blocks, in the model's order."""
    return list(dict.fromkeys(ffn_block(name) for name in chosen if is_ffn(name)))


def _imbalance(likely: Tensor) -> Tensor:
    experts = likely.shape[1]
    shares = torch.nn.functional.one_hot(likely.argmax(-1), experts).to(likely.dtype).mean(0)
    return experts * (shares * likely.mean(0)).sum()
