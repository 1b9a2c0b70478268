"""What the multi-task LoRA family shares: one adapter for T named tasks, whose update is a gated sum of low-rank parts.

Row k of a bank is task k of one adapter (not a training of its own, as in LoRA's rows: a batch with several tasks is
the normal case). Parameters whose name ends in one of `per_task` are (T, …), all others (1, …).

No method here uses dropout, though some papers do: what a task computes would depend on chance, and the comparison with
plain LoRA on it [O].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.sites import Positions, Site, adapted, sites
from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError

Shape = tuple[int, ...]
Start = tuple[Shape, Callable[[Shape, torch.Generator], Tensor]]  # shape, and how it is filled


class FamilyBank(AdapterBank, ABC):
    """One adapter for `tasks` tasks at the `sites` of a backbone; `settings` are those of its method."""

    method: ClassVar[str]
    settings_type: ClassVar[type[BaseModel]]
    per_task: tuple[str, ...] = ()
    needs_positions: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True

    def __init__(
        self, parameters: Mapping[str, Tensor], settings: Any, chosen: dict[str, Site], tasks: int, seed: int = 0
    ) -> None:
        super().__init__(parameters)
        self.settings, self.sites, self.tasks, self.seed = settings, chosen, tasks, seed

    @property
    def rows(self) -> int:
        return self.tasks

    @classmethod
    @abstractmethod
    def plan(cls, chosen: Mapping[str, Site], tasks: int, settings: Any, width: int) -> dict[str, Start]:
        """Shape and start of every parameter, for these sites of a backbone of this width."""

    @abstractmethod
    def update(self, site: str, values: Tensor, at: Positions | None) -> Tensor:
        """What the method adds to the output of a site, from its input (…, in): (…, out)."""

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """Every site adds its update, each example with its row's task."""
        with adapted(backbone, self.sites, rows, self.update, needs_positions=self.needs_positions):
            yield

    def own(self, name: str) -> bool:
        """Whether each task has its own slice of this parameter."""
        return bool(self.per_task) and name.endswith(tuple(f".{part}" for part in self.per_task))

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """Task k uses slice k of what is its own, and slice 0 of what is shared."""
        return rows if self.own(name) else rows * 0

    def row(self, row: int) -> dict[str, Tensor]:
        """What one task uses, on the CPU: the content of its task file."""
        found = {name: p.detach()[row if self.own(name) else 0] for name, p in self.parameters.items()}
        return {name: values.cpu().clone() for name, values in found.items()}

    def stored(self) -> dict[str, Tensor]:
        """What the adapter's file holds, on the CPU."""
        found = {name: p.detach() if self.own(name) else p.detach()[0] for name, p in self.parameters.items()}
        return {name: values.cpu().clone() for name, values in found.items()}

    @torch.no_grad()
    def merged(self, task: int) -> dict[str, Tensor]:
        """What one task adds to the weights: (out, in) per site, in place of the adapter.

        Raises TrainingError where the update depends on the input, so that no weights can hold it.
        """
        if not self.mergeable:
            raise TrainingError(f"{self.method} routes by its input: its update is no matrix and cannot be merged.")
        return {name: self._matrix(name, site.inside, task) for name, site in self.sites.items()}

    def _matrix(self, site: str, inside: int, task: int) -> Tensor:
        """The update is linear for a fixed task: of the unit vectors it is the matrix itself."""
        first = next(iter(self.parameters.values()))
        unit = torch.eye(inside, dtype=first.dtype, device=first.device)
        owner = torch.zeros(inside, dtype=torch.long, device=first.device)
        at = Positions(torch.tensor([task], device=first.device), owner)
        return self.update(site, unit, at).T

    def part(self, site: str, name: str, values: Tensor) -> Tensor:
        """A site's parameter in the precision of its input; shared ones without their first dimension."""
        parameter = self.parameters[f"{site}.{name}"].to(values.dtype)
        return parameter if name in self.per_task else parameter[0]


def family_bank(kind: type[FamilyBank], backbone: Backbone, tasks: int, settings: Any, seed: int) -> FamilyBank:
    """An adapter as its method starts: it computes what the backbone does."""
    chosen = sites(backbone, settings.targets)
    generator = torch.Generator().manual_seed(seed)
    plan = kind.plan(chosen, tasks, settings, backbone.width)
    parameters = {name: fill(shape, generator).to(backbone.device) for name, (shape, fill) in plan.items()}
    return kind(parameters, settings, chosen, tasks, seed)


def family_parameters(kind: type[FamilyBank], backbone: Backbone, tasks: int, settings: Any) -> int:
    """Numbers that are trained, over all tasks."""
    plan = kind.plan(sites(backbone, settings.targets), tasks, settings, backbone.width)
    return sum(math.prod(shape) for shape, _ in plan.values())


def gated(parts: Tensor, gates: Tensor) -> Tensor:
    """Low-rank values (…, n, r) times gates (…, n) or (B, 1, n): (…, n · r)."""
    return (parts * gates[..., None]).flatten(-2)


def down(values: Tensor, a: Tensor) -> Tensor:
    """(…, in) through n matrices A (n, r, in): (…, n, r)."""
    low: Tensor = torch.nn.functional.linear(values, a.flatten(0, 1)).view(*values.shape[:-1], *a.shape[:2])
    return low


def up(parts: Tensor, b: Tensor) -> Tensor:
    """(…, n · r) through n matrices B (n, out, r), summed: (…, out)."""
    return torch.nn.functional.linear(parts, b.transpose(0, 1).flatten(1))


def wide(values: Tensor) -> Tensor:
    """At least in fp32: what a router says of its experts."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def kaiming(shape: Shape, generator: torch.Generator) -> Tensor:
    """Kaiming-uniform with a = √5: uniform in ±1/√fan-in, the last dimension."""
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[-1])


def normal(deviation: float) -> Callable[[Shape, torch.Generator], Tensor]:
    """Normal with mean zero."""
    return lambda shape, generator: deviation * torch.randn(shape, generator=generator)


def constant(value: float) -> Callable[[Shape, torch.Generator], Tensor]:
    """The same number everywhere."""
    return lambda shape, generator: torch.full(shape, value)
