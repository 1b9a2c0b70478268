"""What all adapters share: named parameters whose first dimension is the row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clinprompt.backbone.model import Backbone


class AdapterBank:
    """Parameters by name, each (R, …): slice r belongs to row r. Values are fp32 (fp64 if they come so).

    Subclasses say in `inside` what the backbone does with them. An adapter inserts no prompt.
    """

    mixes = True
    adapts = True
    length = 0

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = {name: nn.Parameter(_master(values)) for name, values in parameters.items()}

    @property
    def rows(self) -> int:
        return next(iter(self.parameters.values())).shape[0]

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """While it is open, the backbone computes example i with row `rows[i]`."""
        yield

    @contextmanager
    def applied(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None = None) -> Iterator[Tensor]:
        """As `prompts.bank.Bank.applied`; yields prompts of no length, (B, 0, d)."""
        with self.inside(backbone, rows, tasks):
            yield torch.zeros(len(rows), 0, backbone.width, device=backbone.device)

    def announce(self, step: int, picks: Sequence[int]) -> None:
        """As `prompts.bank.Bank.announce`; here nothing is drawn by chance."""

    def extra_loss(self) -> Tensor | None:
        """None: the language-model loss is all."""
        return None

    def trainable(self) -> dict[str, nn.Parameter]:
        """All parameters, by name."""
        return dict(self.parameters)

    def slices(self, name: str, rows: Tensor) -> Tensor:
        """Row k uses slice k."""
        return rows

    def values(self) -> dict[str, Tensor]:
        """All tensors, detached, by name."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def restore(self, values: dict[str, Tensor]) -> None:
        """Set all tensors in place."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(values[name])

    def row(self, row: int) -> dict[str, Tensor]:
        """What one row learned, on the CPU, for its task file."""
        return {name: parameter.detach()[row].cpu().clone() for name, parameter in self.parameters.items()}


def only_row(rows: Sequence[int]) -> int | None:
    """The row that all examples share, None if there are several."""
    return rows[0] if len(set(rows)) == 1 else None


def _master(values: Tensor) -> Tensor:
    return values.detach().to(torch.promote_types(values.dtype, torch.float32)).clone()
