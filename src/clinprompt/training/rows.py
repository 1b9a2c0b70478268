"""The slices of a bank's parameters that belong to given rows: which take part, which are numbers, copies of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clinprompt.prompts.bank import Bank


def slice_mask(bank: Bank, name: str, rows: Tensor, slices: int) -> Tensor:
    """Which of a parameter's slices (slices,) the rows of these numbers use; on the parameter's device."""
    mask = torch.zeros(slices, dtype=torch.bool)
    mask[bank.slices(name, rows.to(bank.trainable()[name].device)).cpu()] = True
    return mask.to(bank.trainable()[name].device)


def finite_rows(bank: Bank, tensors: Mapping[str, Tensor | None]) -> Tensor:
    """Rows (R,) whose slices of all these tensors, named as parameters, hold finite numbers only."""
    rows, found = torch.arange(bank.rows), torch.ones(bank.rows, dtype=torch.bool)
    for name, tensor in tensors.items():
        if tensor is not None:
            whole = tensor.detach().isfinite().flatten(1).all(dim=1)  # (slices,)
            found &= whole[bank.slices(name, rows.to(whole.device))].cpu()
    return found


def copy_rows(bank: Bank, source: Mapping[str, Tensor], target: Mapping[str, Tensor], rows: Tensor) -> None:
    """Copy the slices of these rows (R,) in place."""
    chosen = rows.nonzero().squeeze(1)
    if not len(chosen):
        return
    for name, values in source.items():
        slices = bank.slices(name, chosen.to(values.device))
        target[name][slices] = values[slices]
