"""MOELoRA (arXiv 2310.18339, made for medical tasks): LoRA experts weighted by a gate that sees the task and no input.

    W x + s · Σ_i softmax(W_g E[t])_i B_i A_i x,      s = alpha / (N · r)

N = 8 experts of rank r = 2, 16 in all; `A` ~ N(0, 0.01), `B` zero; task embeddings E[t] of width 64 [P, code], which
start ~ N(0, 1) with `W_g` (N, 64) Kaiming-uniform, as the layers of its code do. One gate serves all layers, as in the
paper [R]; alpha = 16 and all linear layers [O]. For a fixed task it is a matrix of rank N · r and can be merged.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from clinprompt.adapters.family import FamilyBank, Start, constant, down, gated, kaiming, normal, up
from clinprompt.adapters.sites import Positions, Site, SiteTargets


class MoeLoraSettings(BaseModel):
    """MOELoRA; counts, widths and starts are those of its code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=2, ge=1, description="of each expert")
    alpha: float = Field(default=16.0, gt=0, description="scale is alpha / (experts · rank)")
    experts: int = Field(default=8, ge=1)
    embedding: int = Field(default=64, ge=1, description="width of the task embeddings")
    targets: SiteTargets = Field(default="all-linear", description="all-linear, attention, ffn, or parts of names")


class MoeLoraBank(FamilyBank):
    """Per site: "A" (1, N, r, in), "B" (1, N, out, r); once "gate.embedding" (T, 64), "gate.weight" (1, N, 64)."""

    method = "moelora"
    settings_type = MoeLoraSettings
    per_task = ("embedding",)

    @classmethod
    def plan(cls, chosen: Mapping[str, Site], tasks: int, settings: MoeLoraSettings, width: int) -> dict[str, Start]:
        """As in the module's text."""
        rank, experts = settings.rank, settings.experts
        found: dict[str, Start] = {}
        for name, site in chosen.items():
            found[f"{name}.A"] = ((1, experts, rank, site.inside), normal(0.01))
            found[f"{name}.B"] = ((1, experts, site.outside, rank), constant(0))
        found["gate.embedding"] = ((tasks, settings.embedding), normal(1.0))
        found["gate.weight"] = ((1, experts, settings.embedding), kaiming)
        return found

    def update(self, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """(…, in) → (…, out)."""
        assert at is not None
        gates = (self.part("gate", "embedding", values) @ self.part("gate", "weight", values).T).softmax(-1)  # (T, N)
        low = gated(down(values, self.part(site, "A", values)), at.each(gates))
        scale = self.settings.alpha / (self.settings.experts * self.settings.rank)
        added: Tensor = scale * up(low, self.part(site, "B", values))
        return added
