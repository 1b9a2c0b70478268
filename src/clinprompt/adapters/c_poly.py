"""C-Poly, customized Polytropon (arXiv 2312.03248): common skills that tasks choose from, and skills of a task's own.

    W x + Σ_{i≤A} g_{t,i} φ_i x + Σ_{j≤B} w_{t,j} φ_{t,j} x,      φ x = B A x

While it trains, `g_{t,i}` is a sample of a Gumbel-sigmoid (a relaxed Bernoulli of temperature 1) with logits `z_{t,i}`,
drawn for every example and site; otherwise it is sigmoid(z). B = 1 [P]; A = 3, r = 2 [R]; the logits start uniform in
±0.001 as Polytropon's, the own skills' weights at one, skills as LoRA does, at all linear layers [O]. Gates are not
divided by their sum, as Polytropon's are. A sample is a function of the seed, the training step and the example's
number in it, however the step is cut into micro-batches and wherever it was resumed. For a fixed task it is a matrix
of rank (A + B) · r and can be merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from clinprompt.adapters.family import FamilyBank, Shape, Start, constant, down, gated, kaiming, up
from clinprompt.adapters.sites import Positions, Site, SiteTargets
from clinprompt.backbone.model import Backbone


class CPolySettings(BaseModel):
    """C-Poly; the counts are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=2, ge=1, description="of each skill")
    common: int = Field(default=3, ge=1, description="skills that all tasks choose from")
    own: int = Field(default=1, ge=1, description="skills of each task alone")
    targets: SiteTargets = Field(default="all-linear", description="all-linear, attention, ffn, or parts of names")


class CPolyBank(FamilyBank):
    """Per site: "A" (1, A, r, in), "B" (1, A, out, r), "logits" (T, A); of each task: "own_A" (T, B, r, in), "own_B"
    (T, B, out, r), "weights" (T, B)."""

    method = "c-poly"
    settings_type = CPolySettings
    per_task = ("logits", "own_A", "own_B", "weights")

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        settings: CPolySettings,
        chosen: dict[str, Site],
        tasks: int,
        seed: int = 0,
    ) -> None:
        super().__init__(parameters, settings, chosen, tasks, seed)
        self._announced: tuple[int, tuple[int, ...]] | None = None  # training step, the next batch's examples in it
        self._noise: dict[str, Tensor] = {}

    @classmethod
    def plan(cls, chosen: Mapping[str, Site], tasks: int, settings: CPolySettings, width: int) -> dict[str, Start]:
        """As in the module's text."""
        rank, common, own = settings.rank, settings.common, settings.own
        found: dict[str, Start] = {}
        for name, site in chosen.items():
            found[f"{name}.A"] = ((1, common, rank, site.inside), kaiming)
            found[f"{name}.B"] = ((1, common, site.outside, rank), constant(0))
            found[f"{name}.logits"] = ((tasks, common), _nearly_zero)
            found[f"{name}.own_A"] = ((tasks, own, rank, site.inside), kaiming)
            found[f"{name}.own_B"] = ((tasks, own, site.outside, rank), constant(0))
            found[f"{name}.weights"] = ((tasks, own), constant(1))
        return found

    def announce(self, step: int, picks: Sequence[int]) -> None:
        """The next batch is sampled, once, by these numbers."""
        self._announced = step, tuple(picks)

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """As every method; gates of a batch that training announced are sampled."""
        announced, self._announced = self._announced, None
        self._noise = {} if announced is None else self._samples(*announced, backbone.device)
        try:
            with super().inside(backbone, rows, tasks):
                yield
        finally:
            self._noise = {}

    def update(self, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """(…, in) → (…, out)."""
        assert at is not None
        logits = at.each(self.part(site, "logits", values))
        if site in self._noise:
            logits = logits + self._noise[site].to(values.dtype)[at.owner]
        low = down(values, self.part(site, "A", values))
        found = up(gated(low, logits.sigmoid()), self.part(site, "B", values))
        # Of the own skills only those of tasks that are here; a position's gate is zero for other tasks' skills.
        present, place = torch.unique(at.rows, return_inverse=True)
        a, b = (self.part(site, name, values)[present].flatten(0, 1) for name in ("own_A", "own_B"))
        mine = torch.nn.functional.one_hot(place[at.owner], len(present)).to(values.dtype)
        gates = (mine[..., None] * self.part(site, "weights", values)[present]).flatten(-2)
        return found + up(gated(down(values, a), gates), b)

    def _samples(self, step: int, picks: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Logistic noise (examples, A) per site: sigmoid(logits + noise) is a Gumbel-sigmoid sample."""
        shape = len(self.sites), self.settings.common
        drawn = [np.random.default_rng([self.seed, step, pick]).random(shape) for pick in picks]
        uniform = torch.from_numpy(np.stack(drawn, axis=1)).float().clamp(1e-6, 1 - 1e-6)
        noise = (uniform.log() - (-uniform).log1p()).to(device)
        return dict(zip(self.sites, noise, strict=True))


def _nearly_zero(shape: Shape, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * 1e-3
