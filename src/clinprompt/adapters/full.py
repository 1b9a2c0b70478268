"""Fine-tuning of all weights, in rows: each row is a copy of the whole model, and the frozen backbone stays as it is.

The ceiling that small adapters are compared with, at the size of the model per task (and five times that per row while
it trains: values, gradient, two moments, best values). A batch holds one row's examples only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from clinprompt.adapters.bank import AdapterBank, only_row
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError


class FullBank(AdapterBank):
    """Every weight of the model by its name, (R, …)."""

    mixes = False

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """The model computes with the row's weights in place of its own, which come back afterwards."""
        row = only_row(rows)
        if row is None:
            raise ValueError("all examples of a batch must be of one row")
        own: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            copies: dict[nn.Parameter, Tensor] = {}
            for name, weight in backbone.model.named_parameters():
                # With one row a view: selecting a slice would cost a second gradient of the model's size.
                values = self.parameters[name]
                copies[weight] = (values.squeeze(0) if self.rows == 1 else values[row]).to(weight.dtype)
            for module in backbone.model.modules():
                for name, weight in module._parameters.items():
                    if weight is not None:
                        own.append((module, name, weight))
            for module, name, weight in own:  # tied weights are one parameter under two names
                module._parameters[name] = copies[weight]  # type: ignore[assignment]
            yield
        finally:
            for module, name, weight in own:
                module._parameters[name] = weight


def full_bank(backbone: Backbone, rows: int) -> FullBank:
    """`rows` copies of the weights. Raises BackboneError for quantised ones."""
    weights = dict(backbone.model.named_parameters())
    if not all(weight.is_floating_point() for weight in weights.values()):
        raise BackboneError(f"{backbone.name}: quantised weights cannot be fine-tuned; load the model in bfloat16.")
    return FullBank({name: weight.detach().expand(rows, *weight.shape) for name, weight in weights.items()})
