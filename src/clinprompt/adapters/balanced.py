"""Routed adapters whose experts are kept in use by a balance loss."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from clinprompt.adapters.family import FamilyBank
from clinprompt.adapters.sites import Site
from clinprompt.backbone.model import Backbone


class BalancedBank(FamilyBank, ABC):
    """Notes how unevenly the experts of every router are used while a batch is read; `settings.balance` is the weight
    of that in the loss."""

    def __init__(
        self, parameters: Mapping[str, Tensor], settings: Any, chosen: dict[str, Site], tasks: int, seed: int = 0
    ) -> None:
        super().__init__(parameters, settings, chosen, tasks, seed)
        self._terms: list[Tensor] = []

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """As every method; the balance is that of this batch."""
        self._terms = []
        with super().inside(backbone, rows, tasks):
            yield

    def note_imbalance(self, imbalance: Tensor) -> None:
        """One router's term of the loss, a number."""
        self._terms.append(imbalance)

    def extra_loss(self) -> Tensor | None:
        """(T,): the mean of the last batch's terms, weighted, the same for all tasks; None where none was noted."""
        if not self._terms or not self.settings.balance:
            return None
        balance: Tensor = self.settings.balance * torch.stack(self._terms).mean()
        return balance.expand(self.tasks)
