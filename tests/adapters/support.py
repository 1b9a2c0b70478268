"""Banks with random values, so that rows differ and every part of them matters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.full import full_bank
from clinprompt.adapters.lora import lora_bank
from clinprompt.adapters.prefix import prefix_bank
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from clinprompt.prompts.bank import Bank
from clinprompt.prompts.initialisation import initial_prompts

SOURCES = ["Note: fever and cough.\nAnswer:", "a longer source about aspirin and warfarin\nAnswer:", "x\nAnswer:"]
TARGETS = ["fever", "aspirin; warfarin", "none"]


def bank_for(method: str, backbone: Backbone, rows: int = 3) -> AdapterBank:
    seeds = list(range(rows))
    if method == "lora":
        bank: AdapterBank = lora_bank(backbone, seeds, rank=3, alpha=6.0)
        for name, parameter in bank.parameters.items():
            if name.endswith("lora_B"):
                _shake(parameter, 0.2)
    elif method == "prefix":
        bank = prefix_bank(backbone, initial_prompts(backbone, 4, "vocabulary", seeds))
        for parameter in bank.parameters.values():
            _shake(parameter, 0.3)
    else:
        bank = full_bank(backbone, rows)
        for parameter in bank.parameters.values():
            _shake(parameter, 0.05)
    return bank


def _shake(parameter: Tensor, scale: float) -> None:
    generator = torch.Generator().manual_seed(parameter.numel())
    with torch.no_grad():
        parameter += scale * torch.randn(parameter.shape, generator=generator)


def losses(backbone: Backbone, bank: Bank, rows: Sequence[int], examples: Sequence[int] = (0, 1, 2)) -> list[Tensor]:
    """-log p of the target tokens of each example, under its row."""
    encoded = encode(backbone, [SOURCES[i] for i in examples], [TARGETS[i] for i in examples], "front")
    batch = collate(backbone, encoded)
    with bank.applied(backbone, rows) as prompts:
        states = label_states(backbone, batch, prompts)
        found = token_losses(backbone, states)
    return [found[states.owner == i] for i in range(len(examples))]
