"""A prefix and LoRA in one bank, trained together (PEML's Algorithm 1, arXiv 2605.14055) or one after the other.

The prefix is a plain one (`lora+prefix`, the control that PEML's paper lacks) or a network's (`peml`). Both are stored
in one form, plain keys and values beside A and B, and answer as the same bank. Keys and values are read by the text's
attention as they are: LoRA changes the text's projections, not the prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.lora import LoraBank
from clinprompt.adapters.network import NetworkBank
from clinprompt.adapters.prefix import PrefixBank
from clinprompt.backbone.model import Backbone

PREFIX, LORA = "prefix.", "lora."
Order = Literal["parallel", "sequential"]


class JointBank(AdapterBank):
    """Parameters are those of the two banks, called "prefix.<name>" and "lora.<name>"; both have the same rows."""

    def __init__(self, prefix: PrefixBank | NetworkBank, lora: LoraBank) -> None:
        if prefix.rows != lora.rows:
            raise ValueError(f"{prefix.rows} rows of prefixes, but {lora.rows} of LoRA")
        self.prefix, self.lora = prefix, lora
        self.parameters = {PREFIX + name: values for name, values in prefix.parameters.items()}
        self.parameters |= {LORA + name: values for name, values in lora.parameters.items()}

    @property
    def length(self) -> int:  # type: ignore[override]
        return self.prefix.length

    @contextmanager
    def inside(self, backbone: Backbone, rows: Sequence[int], tasks: Sequence[int] | None) -> Iterator[None]:
        """Both at once; they touch different things."""
        with ExitStack() as both:
            both.enter_context(self.prefix.inside(backbone, rows, tasks))
            both.enter_context(self.lora.inside(backbone, rows, tasks))
            yield

    def row(self, row: int) -> dict[str, Tensor]:
        """The prefix as plain keys and values, and LoRA, for the row's task file."""
        found = {PREFIX + name: values for name, values in self.prefix.row(row).items()}
        return found | {LORA + name: values for name, values in self.lora.row(row).items()}


def phases(order: Order, names: Sequence[str], steps: int) -> dict[str, tuple[int, int]]:
    """In which steps [begin, end) each parameter moves. Sequential: the prefix in the first half, LoRA in the second;
    parallel: all in all steps, which is said by leaving them out."""
    if order == "parallel":
        return {}
    half = steps // 2
    return {name: (0, half) if name.startswith(PREFIX) else (half, steps) for name in names}
