"""Prompt tuning (Lester et al., 2021): one free prompt per task. MPT's teachers are exactly this. Where they start:
`clinprompt.training.starts.first_prompts`."""

from __future__ import annotations

import torch
from torch import Tensor

from clinprompt.prompts.bank import DirectBank


def prompt_rates(bank: DirectBank, rate: float | Tensor) -> dict[str, Tensor]:
    """Learning rates per row; `rate` is one number or (R,)."""
    return {"prompt": torch.as_tensor(rate, dtype=torch.float32).expand(bank.rows).clone()}
