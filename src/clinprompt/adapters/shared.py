"""One adapter for several tasks: whatever the task of an example, it is computed with the same row."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor, nn

from clinprompt.adapters.bank import AdapterBank
from clinprompt.backbone.model import Backbone


class SharedBank:
    """An adapter bank of one row, seen as `rows` tasks that share it (LoRA or a prefix as multi-task methods)."""

    mixes = True
    adapts = True
    per_task: tuple[str, ...] = ()

    def __init__(self, bank: AdapterBank, rows: int) -> None:
        if bank.rows != 1:
            raise ValueError(f"one row is shared, not {bank.rows}")
        self.bank, self._rows = bank, rows

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def length(self) -> int:
        return self.bank.length

    def applied(
        self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None = None
    ) -> AbstractContextManager[Tensor]:
        """Every example with the only row."""
        return self.bank.applied(backbone, [0] * len(rows), tasks)

    def announce(self, step: int, picks: Sequence[int]) -> None:
        """The adapter's own."""
        self.bank.announce(step, picks)

    def extra_loss(self) -> Tensor | None:
        """(T,): the adapter's own term for every task; None if it has none."""
        extra = self.bank.extra_loss()
        return None if extra is None else extra.expand(self._rows)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters, each with one slice."""
        return self.bank.trainable()

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """Every task uses slice 0."""
        return rows * 0

    def values(self) -> dict[str, Tensor]:
        """The adapter's tensors."""
        return self.bank.values()

    def restore(self, values: dict[str, Tensor]) -> None:
        """Set all tensors in place."""
        self.bank.restore(values)

    def stored(self) -> dict[str, Tensor]:
        """What a file holds: the only row."""
        return self.bank.row(0)
