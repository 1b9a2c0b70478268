"""MultiLoRA (arXiv 2311.11501): several parallel LoRAs whose outputs are scaled element by element.

    W x + s · Σ_i c_i ∘ (B_i A_i x),      s = alpha / rank

A and B of every one of the n = 3 LoRAs start Kaiming-uniform and `c_i` (out) at zero [P, as re-implemented in
MTL-LoRA's code], so that it is not B that begins at zero. Rank 8, alpha 16 and all linear layers [O]. All tasks compute
alike; it is a matrix of rank n · r and can be merged.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from clinprompt.adapters.family import FamilyBank, Start, constant, down, kaiming, up
from clinprompt.adapters.sites import Positions, Site, SiteTargets


class MultiLoraSettings(BaseModel):
    """MultiLoRA; the number of LoRAs is its authors', the rest ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=8, ge=1, description="of each LoRA")
    alpha: float = Field(default=16.0, gt=0, description="scale is alpha / rank")
    loras: int = Field(default=3, ge=1, description="parallel LoRAs")
    targets: SiteTargets = Field(default="all-linear", description="all-linear, attention, ffn, or parts of names")


class MultiLoraBank(FamilyBank):
    """Per site: "A" (1, n, r, in), "B" (1, n, out, r), "scales" (1, n, out)."""

    method = "multilora"
    settings_type = MultiLoraSettings
    needs_positions = False

    @classmethod
    def plan(cls, chosen: Mapping[str, Site], tasks: int, settings: MultiLoraSettings, width: int) -> dict[str, Start]:
        """As in the module's text."""
        rank, loras = settings.rank, settings.loras
        found: dict[str, Start] = {}
        for name, site in chosen.items():
            found[f"{name}.A"] = ((1, loras, rank, site.inside), kaiming)
            found[f"{name}.B"] = ((1, loras, site.outside, rank), kaiming)
            found[f"{name}.scales"] = ((1, loras, site.outside), constant(0))
        return found

    def update(self, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """(…, in) → (…, out)."""
        low = down(values, self.part(site, "A", values)).flatten(-2)
        scaled = self.part(site, "scales", values)[..., None] * self.part(site, "B", values)
        added: Tensor = self.settings.alpha / self.settings.rank * up(low, scaled)
        return added
