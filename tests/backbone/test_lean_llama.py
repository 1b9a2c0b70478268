"""The lean LLaMA path against Transformers' own forward pass, in values and in the prompt's gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clinprompt.backbone import lean_llama
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import TokenBatch, collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from tests.models import tiny

SOURCES = ["Find: Disease.\nText: fever\nAnswer:", "Text: a much longer text about aspirin\nAnswer:", "x"]
TARGETS = ["fever", "none", "aspirin; warfarin; heparin and all the rest of a long answer"]
ROPES: list[dict[str, Any]] = [
    {},
    {"num_key_value_heads": 4},
    {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 1},
    {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
]


def loss_and_gradient(backbone: Backbone, batch: TokenBatch, start: Tensor) -> tuple[Tensor, Tensor]:
    prompts = start.clone().requires_grad_()
    losses = token_losses(backbone, label_states(backbone, batch, prompts))
    losses.square().sum().backward()  # type: ignore[no-untyped-call]
    assert prompts.grad is not None
    return losses.detach(), prompts.grad


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("extra", ROPES)
@pytest.mark.parametrize("position", ["start", "end"])
def test_equals_the_models_own_forward(
    extra: dict[str, Any], position: Any, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny(bos=True, **extra)
    backbone.autocast = autocast
    for name, parameter in backbone.model.named_parameters():
        if "norm" in name:  # ones after initialisation: a forgotten weight would not show
            parameter.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    batch = collate(backbone, encode(backbone, SOURCES, TARGETS, position))
    start = torch.randn(3, 5, backbone.width, generator=torch.Generator().manual_seed(1))
    assert lean_llama.recognised(backbone.model)
    lean = loss_and_gradient(backbone, batch, start)
    monkeypatch.setattr(lean_llama, "recognised", lambda model: False)
    own = loss_and_gradient(backbone, batch, start)
    exact = {"atol": 2e-5, "rtol": 2e-5}
    rounded = {"atol": 0.05 * float(own[0].abs().max()), "rtol": 0.05}
    torch.testing.assert_close(lean[0], own[0], **(rounded if autocast else exact))
    scale = own[1].abs().max()
    torch.testing.assert_close(lean[1] / scale, own[1] / scale, atol=0.05 if autocast else 1e-5, rtol=1e-4)


def test_what_is_not_plain_llama_is_left_alone() -> None:
    assert not any(lean_llama.recognised(tiny(kind).model) for kind in ("qwen3", "gemma2", "gpt2", "gpt_oss", "t5"))
    hooked = tiny().model
    handle = hooked.base_model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert not lean_llama.recognised(hooked)
    handle.remove()
    assert lean_llama.recognised(hooked)
    hooked.base_model.layers[1].forward = hooked.base_model.layers[1].forward
    assert not lean_llama.recognised(hooked)
    eager = tiny(attn_implementation="eager").model
    assert not lean_llama.recognised(eager)
