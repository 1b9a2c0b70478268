"""Prompt tuning (Lester et al., 2021): one free prompt per task. MPT's teachers are exactly this."""

from __future__ import annotations

import torch
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.bank import DirectBank
from clinprompt.prompts.initialisation import from_vocabulary


def prompt_bank(backbone: Backbone, length: int, rows: int, *, seed: int, same_start: bool = False) -> DirectBank:
    """R prompts that start at sampled vocabulary embeddings.

    With `same_start` all rows start at one sample: teachers that leave from one point can be averaged into P*.
    """
    start = from_vocabulary(backbone, length, seed=seed, rows=1 if same_start else rows)
    return DirectBank(start.expand(rows, -1, -1).to(backbone.device))


def prompt_rates(bank: DirectBank, rate: float | Tensor) -> dict[str, Tensor]:
    """Learning rates per row; `rate` is one number or (R,)."""
    return {"prompt": torch.as_tensor(rate, dtype=torch.float32).expand(bank.rows).clone()}
