"""Prompt tuning (Lester et al., 2021): one free prompt per task. MPT's teachers are exactly this."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.bank import DirectBank
from clinprompt.prompts.initialisation import initial_prompts


def prompt_bank(backbone: Backbone, length: int, start: str, seeds: Sequence[int]) -> DirectBank:
    """One prompt per seed, starting where `start` says (`prompts.initialisation.initial_prompts`).

    Rows with the same seed start at the same values: teachers that leave from one point can be averaged into P*.
    """
    return DirectBank(initial_prompts(backbone, length, start, seeds).to(backbone.device))


def prompt_rates(bank: DirectBank, rate: float | Tensor) -> dict[str, Tensor]:
    """Learning rates per row; `rate` is one number or (R,)."""
    return {"prompt": torch.as_tensor(rate, dtype=torch.float32).expand(bank.rows).clone()}
