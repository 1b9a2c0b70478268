"""Adapters of several tasks in one batch: the frozen model computes all examples in one pass, and every adapted layer
adds to each example what its own adapter adds there.

This is how LoRA is served (as by Punica, arXiv 2310.18547, and S-LoRA, arXiv 2311.03285, with kernels for it; here
the examples of one adapter are gathered at each layer). Adapters that do more than add to linear layers take a pass of
their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.lora import LoraBank
from clinprompt.adapters.sites import expert_sites
from clinprompt.backbone.model import Backbone


@dataclass(frozen=True, eq=False)
class Inside:
    """What a task changes inside the backbone: a row of a bank. `mixes`: other adapters may be in the same pass."""

    bank: AdapterBank
    row: int
    mixes: bool

    @property
    def company(self) -> AdapterBank | None:
        """Examples of the same company can share a pass; None: that of everything that mixes, the bare model too."""
        return None if self.mixes else self.bank


@torch.no_grad()
def can_mix(backbone: Backbone, bank: AdapterBank) -> bool:
    """Whether this is LoRA on layers that see the examples of a batch apart, as (B, S, in); tried out on two examples.

    The experts of a mixture see positions of all examples at once.
    """
    if not isinstance(bank, LoraBank) or expert_sites(backbone, bank.modules):
        return False
    apart: list[bool] = []
    handles = [
        backbone.model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs: apart.append(inputs[0].ndim == 3 and inputs[0].shape[:2] == (2, 3))
        )
        for name in bank.modules
    ]
    try:
        with backbone.precision():
            backbone.model.base_model(input_ids=torch.zeros(2, 3, dtype=torch.long, device=backbone.device))
    finally:
        for handle in handles:
            handle.remove()
    return bool(apart) and all(apart)


@contextmanager
def mixed(backbone: Backbone, each: Sequence[Inside | None]) -> Iterator[None]:
    """While it is open, the backbone computes example i with what `each[i]` changes; None: nothing.

    All of them are of one company. Without gradients: outputs of layers are changed in place.
    """
    alone = next((one for one in each if one is not None and not one.mixes), None)
    if alone is not None:
        with alone.bank.inside(backbone, [one.row for one in each if one is not None], None):
            yield
        return
    handles = []
    try:
        for hook, name in _updates(each, backbone.device):
            handles.append(backbone.model.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _updates(each: Sequence[Inside | None], device: torch.device) -> Iterator[tuple[_Update, str]]:
    """A hook for every layer of every adapter in the batch."""
    members: dict[tuple[LoraBank, int], list[int]] = {}
    for place, one in enumerate(each):
        if one is not None:
            assert isinstance(one.bank, LoraBank)
            members.setdefault((one.bank, one.row), []).append(place)
    for (bank, row), places in members.items():
        which = None if len(places) == len(each) else torch.tensor(places, device=device)
        for name in bank.modules:
            a, b = (bank.parameters[f"{name}.lora_{half}"][row] for half in "AB")
            yield _Update(a, b, bank.scale, which), name


@dataclass(frozen=True)
class _Update:
    """Forward hook of one linear layer: adds `scale · B A x` to the examples `which` (None: all) of (B, S, out)."""

    a: Tensor
    b: Tensor
    scale: float
    which: Tensor | None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        values: Tensor = inputs[0] if self.which is None else inputs[0].index_select(0, self.which)
        low = functional.linear(values, self.a.to(values.dtype))
        update = (self.scale * functional.linear(low, self.b.to(values.dtype))).to(output.dtype)
        return output.add_(update) if self.which is None else output.index_add_(0, self.which, update)
