"""Positions of a task's own before a prompt that other tasks made (ours).

What a metaprompt knows is lost when few examples train it; what it lacks for an unlike task it has no room for. Here it
can stay as it is while positions in front of it learn. Progressive Prompts (arXiv 2301.12314) put a new prompt before
frozen earlier ones in the same way, to learn tasks one after another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinprompt.prompts.bank import DecomposedBank, PromptModule


class OwnPositionsBank(PromptModule):
    """Rows `[own_k ; P_k]`: own (R, m, d) before the rows (R, l, d) of another bank.

    They stand before, not behind, so that the distance between the metaprompt and the text is what it was learned at.
    """

    def __init__(self, own: Tensor, rest: DecomposedBank) -> None:
        super().__init__()
        if own.ndim != 3 or own.shape[0] != rest.rows or own.shape[2] != rest.shared.shape[2]:
            raise ValueError(f"own positions {tuple(own.shape)} do not fit {rest.rows} rows of {rest.shared.shape[2]}")
        self.own = nn.Parameter(own.detach().to(torch.float32).clone())
        self.rest = rest

    @property
    def rows(self) -> int:
        return self.rest.rows

    @property
    def length(self) -> int:
        return self.own.shape[1] + self.rest.length

    def compose(self, rows: Tensor) -> Tensor:
        """(B,) → (B, m + l, d)."""
        return torch.cat([self.own.index_select(0, rows), self.rest.compose(rows)], dim=1)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The own positions, and of the rest what it trains."""
        return {"own": self.own, **self.rest.trainable()}

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """Row k has own positions k."""
        return rows if name == "own" else self.rest.slices(name, rows)

    def values(self) -> dict[str, Tensor]:
        """All tensors, detached, by name."""
        return {"own": self.own.detach(), **self.rest.values()}

    def restore(self, values: dict[str, Tensor]) -> None:
        """Set all tensors in place."""
        with torch.no_grad():
            self.own.copy_(values["own"])
        self.rest.restore({name: tensor for name, tensor in values.items() if name != "own"})
