"""The formulas of plans, against the products that PyTorch counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clinprompt.adapters.prefix import prefix_bank
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.flops import Volume, attention_flops, volume_of
from clinprompt.backbone.injection import collate, label_states
from tests.models import tiny


@pytest.mark.parametrize("layers", [2, 3])
def test_attention_of_an_encoder_decoder_with_a_prefix(layers: int) -> None:
    """PyTorch counts all pairs of an answer's tokens, the formula those that see each other."""
    backbone = tiny("t5", d_kv=6, num_decoder_layers=layers)
    examples = encode(backbone, ["Note: fever and cough.\nAnswer:"], ["fever, cough"], "front")
    labels = examples[0].labels
    for length in (1, 7):
        bank = prefix_bank(backbone, torch.randn(1, length, backbone.width))
        counter = FlopCounterMode(display=False)
        with bank.applied(backbone, [0]) as prompts, torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            label_states(backbone, collate(backbone, examples), prompts)
        counted = counter.get_flop_counts()["Global"]
        products = sum(number for operation, number in counted.items() if "bmm" in str(operation))
        unseen = 4 * 4 * 6 * layers * labels * (labels - 1) / 2
        assert attention_flops(backbone, volume_of(examples, 0, length)) == products - unseen


def test_volumes_add_up() -> None:
    backbone = tiny("t5")
    examples = encode(backbone, ["some text", "another"], ["yes", "no"], "front")
    parts = [volume_of([example], 3, 2) for example in examples]
    assert parts[0] + parts[1] == volume_of(examples, 3, 2)
    assert parts[0].times(2) == parts[0] + parts[0] and parts[0] + Volume() == parts[0]
