"""MTL-LoRA (arXiv 2410.09437): one down-projection, a square matrix per task, and up-projections each task mixes.

    W x + s · Σ_i softmax(w_t / τ)_i B^i Λ_t A x,      s = alpha / rank

`A` (r, in) and n up-projections `B^i` (out, r) are shared; task t owns `Λ_t` (r, r) and `w_t` (n). `A` and `w` start
Kaiming-uniform, `B` at zero, `Λ` at the identity; n = 3, τ = 0.1, r = 8, alpha = 16, attention projections [P, code].
For a fixed task it is a matrix of rank r and can be merged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from clinprompt.adapters.family import FamilyBank, Shape, Start, constant, gated, kaiming, up
from clinprompt.adapters.sites import Positions, Site, SiteTargets


class MtlLoraSettings(BaseModel):
    """MTL-LoRA; defaults are those of its code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0, description="scale is alpha / rank")
    ups: int = Field(default=3, ge=1, description="up-projections that tasks mix")
    temperature: float = Field(default=0.1, gt=0, description="of the mixing weights' softmax")
    targets: SiteTargets = Field(default="attention", description="all-linear, attention, ffn, or parts of names")


class MtlLoraBank(FamilyBank):
    """Per site: "down" (1, r, in), "ups" (1, n, out, r), "square" (T, r, r), "mix" (T, n)."""

    method = "mtl-lora"
    settings_type = MtlLoraSettings
    per_task = ("square", "mix")

    @classmethod
    def plan(cls, chosen: Mapping[str, Site], tasks: int, settings: MtlLoraSettings, width: int) -> dict[str, Start]:
        """As in the module's text."""
        rank, ups = settings.rank, settings.ups
        found: dict[str, Start] = {}
        for name, site in chosen.items():
            found[f"{name}.down"] = ((1, rank, site.inside), kaiming)
            found[f"{name}.ups"] = ((1, ups, site.outside, rank), constant(0))
            found[f"{name}.square"] = ((tasks, rank, rank), _identity)
            found[f"{name}.mix"] = ((tasks, ups), kaiming)
        return found

    def update(self, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """(…, in) → (…, out)."""
        assert at is not None
        low = torch.nn.functional.linear(values, self.part(site, "down", values))
        low = at.transformed(low, self.part(site, "square", values))  # (…, r)
        weights = (self.part(site, "mix", values) / self.settings.temperature).softmax(-1)
        scale = self.settings.alpha / self.settings.rank
        added: Tensor = scale * up(gated(low[..., None, :], at.each(weights)), self.part(site, "ups", values))
        return added


def _identity(shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.eye(shape[-1]).expand(shape).clone()
