"""LoRAMoE (arXiv 2312.09979): LoRA experts in the feed-forward layers, all of them weighted by a router of each layer.

    W x + s · Σ_i softmax(W_r x)_i B_i A_i x,      s = alpha / r

N = 8 experts, r = 4, alpha = 32, feed-forward projections [P, code]; `A` and `W_r` (N, in) Kaiming-uniform, `B` zero.
Balance loss: with Q (N, B) the mean weight of each expert over an example's positions, c · var(Q) / mean(Q)², averaged
over the sites [R]. The paper raises Q for experts of the example's type (world knowledge or not); our tasks have no
such types, so that factor is one, and c = 0.1 [O]. Padding behind a text counts as text; batches are of similar
lengths. It routes by its input and cannot be merged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from clinprompt.adapters.balanced import BalancedBank
from clinprompt.adapters.family import Start, constant, down, gated, kaiming, up, wide
from clinprompt.adapters.sites import Positions, Site, SiteTargets


class LoraMoeSettings(BaseModel):
    """LoRAMoE; rank, alpha and the number of experts are those of its code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=4, ge=1, description="of each expert")
    alpha: float = Field(default=32.0, gt=0, description="scale is alpha / rank")
    experts: int = Field(default=8, ge=2)
    balance: float = Field(default=0.1, ge=0, description="weight of the balance loss")
    targets: SiteTargets = Field(default="ffn", description="all-linear, attention, ffn, or parts of names")


class LoraMoeBank(BalancedBank):
    """Per site: "A" (1, N, r, in), "B" (1, N, out, r), "router" (1, N, in)."""

    method = "loramoe"
    settings_type = LoraMoeSettings
    mergeable = False

    @classmethod
    def plan(cls, chosen: Mapping[str, Site], tasks: int, settings: LoraMoeSettings, width: int) -> dict[str, Start]:
        """As in the module's text."""
        rank, experts = settings.rank, settings.experts
        found: dict[str, Start] = {}
        for name, site in chosen.items():
            found[f"{name}.A"] = ((1, experts, rank, site.inside), kaiming)
            found[f"{name}.B"] = ((1, experts, site.outside, rank), constant(0))
            found[f"{name}.router"] = ((1, experts, site.inside), kaiming)
        return found

    def update(self, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """(…, in) → (…, out)."""
        assert at is not None
        gates = torch.nn.functional.linear(values, self.part(site, "router", values)).softmax(-1)
        if torch.is_grad_enabled():
            self.note_imbalance(_imbalance(gates, at))
        low = gated(down(values, self.part(site, "A", values)), gates)
        added: Tensor = self.settings.alpha / self.settings.rank * up(low, self.part(site, "B", values))
        return added


def _imbalance(gates: Tensor, at: Positions) -> Tensor:
    """Squared coefficient of variation of the experts' mean weights per example."""
    owner = at.owner.expand(gates.shape[:-1]).flatten()
    flat = wide(gates.flatten(0, -2))
    sums = flat.new_zeros(len(at.rows), flat.shape[1]).index_add(0, owner, flat)
    counts = flat.new_zeros(len(at.rows)).index_add(0, owner, flat.new_ones(len(owner)))
    present = counts > 0
    means = sums[present] / counts[present][:, None]
    variance: Tensor = means.var(correction=0) / means.mean().square()
    return variance
