"""Adapters in rows: nobody sees anybody else's row, gradients are right, and the backbone comes back as it was."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5LayerNorm

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.full import full_bank
from clinprompt.adapters.linear import target_modules
from clinprompt.adapters.lora import LoraBank, by_example, lora_bank, lora_parameters
from clinprompt.adapters.prefix import PrefixBank, prefix_bank, prefix_parameters
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError, TrainingError
from clinprompt.evaluation.decoding import Decoder
from clinprompt.prompts.bank import DirectBank, trainable_parameters
from clinprompt.prompts.initialisation import initial_prompts
from tests.adapters.support import SOURCES, TARGETS, bank_for, losses
from tests.models import tiny

CHOICES = [["yes", "no"], ["entailment", "neutral", "contradiction"], ["none", "x"]]
CASES = [
    *(("lora", kind) for kind in ("llama", "gpt_oss", "qwen3", "gemma2", "gpt2", "t5")),
    *(("prefix", kind) for kind in ("llama", "gpt_oss", "qwen3", "gemma2", "gpt2", "t5", "mt5")),
]


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_a_crowd_computes_what_each_would_alone(method: str, kind: str) -> None:
    backbone = tiny(kind)
    bank = bank_for(method, backbone)
    rows = [1, 2, 0]
    crowd = losses(backbone, bank, rows)
    plain = losses(backbone, DirectBank(torch.zeros(1, 0, backbone.width)), [0, 0, 0])
    for i, row in enumerate(rows):
        torch.testing.assert_close(losses(backbone, bank, [row], [i])[0], crowd[i], atol=2e-5, rtol=1e-4)
        assert (crowd[i] - plain[i]).abs().max() > 1e-3  # the adapter does something


@pytest.mark.parametrize(("method", "kind"), [*CASES, ("full", "llama"), ("full", "t5")])
def test_decoding_in_a_crowd_equals_alone_and_the_label_losses(method: str, kind: str) -> None:
    backbone = tiny(kind)
    bank = bank_for(method, backbone)
    examples = encode(backbone, SOURCES, None, "front")
    rows = [1, 2, 0]
    decoder = Decoder(backbone, bank, "front")
    answers, scores = decoder.generate(examples, rows, 8), decoder.score(examples, rows, CHOICES)
    for i, row in enumerate(rows):
        assert decoder.generate([examples[i]], [row], 8) == [answers[i]]
        alone = decoder.score([examples[i]], [row], [CHOICES[i]])[0]
        torch.testing.assert_close(torch.tensor(scores[i]), torch.tensor(alone), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        wanted = [-float(found.mean()) for found in losses(backbone, bank, rows[:1], [0])]
    assert decoder.score(examples[:1], rows[:1], [[TARGETS[0]]])[0] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_lean_path_equals_the_model_itself(method: str) -> None:
    """Values and gradients, against the same weights with attention that the lean path does not recognise."""
    lean, plain = tiny(), tiny()
    plain.model.set_attn_implementation("eager")
    found = []
    for backbone in (lean, plain):
        bank = bank_for(method, backbone)
        loss = torch.cat(losses(backbone, bank, [0, 1, 2])).sum()
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in bank.parameters.items()}))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("method", "kind"), [("lora", "gpt2"), ("prefix", "gpt2"), ("full", "gpt2"), ("prefix", "t5")])
def test_gradients_against_finite_differences(method: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 on a model that computes in it throughout."""
    throughout_double(monkeypatch)
    backbone = tiny(kind)
    backbone.model.double()
    rows = [0, 0, 0] if method == "full" else [1, 0, 1]
    bank = double(bank_for(method, backbone, rows=2))
    batch = collate(backbone, encode(backbone, SOURCES, TARGETS, "front"))

    def value() -> torch.Tensor:
        with bank.applied(backbone, rows) as prompts:
            return label_states(backbone, batch, prompts).hidden.square().mean()

    value().backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in bank.parameters.values():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        assert parameter.grad is not None
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                parameter += step * direction
                values.append(value())
            parameter += 1e-5 * direction
        slope = float((values[0] - values[1]) / 2e-5)
        assert slope == pytest.approx(float((parameter.grad * direction).sum()), rel=1e-4, abs=1e-9)


def throughout_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5's norm computes its variance in float32, whatever it is given."""

    def norm(module: Any, states: torch.Tensor) -> torch.Tensor:
        scaled = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + module.variance_epsilon)
        return module.weight * scaled

    monkeypatch.setattr(T5LayerNorm, "forward", norm)


def double(bank: AdapterBank) -> AdapterBank:
    values = {name: tensor.double() for name, tensor in bank.values().items()}
    if isinstance(bank, LoraBank):
        return LoraBank(values, bank.alpha)
    return PrefixBank(**values) if isinstance(bank, PrefixBank) else type(bank)(values)


@pytest.mark.parametrize("method", ["lora", "prefix", "full"])
def test_the_backbone_comes_back_as_it_was(method: str) -> None:
    backbone = tiny()
    before = {name: (id(p), p.clone()) for name, p in backbone.model.named_parameters()}
    hooks = [len(module._forward_hooks) for module in backbone.model.modules()]
    bank = bank_for(method, backbone)
    for stop in (False, True):
        with pytest.raises(RuntimeError, match="stop") if stop else nullcontext(), bank.applied(backbone, [1, 1]):
            if stop:
                raise RuntimeError("stop")
        assert backbone.prefix is None
        assert [len(module._forward_hooks) for module in backbone.model.modules()] == hooks
        after = dict(backbone.model.named_parameters())
        assert all(id(after[n]) == i and torch.equal(after[n], p) for n, (i, p) in before.items())


def test_a_row_starts_as_the_backbone_itself() -> None:
    backbone = tiny()
    plain = losses(backbone, DirectBank(torch.zeros(1, 0, backbone.width)), [0, 0, 0])
    for bank in (lora_bank(backbone, [0, 1], rank=4), full_bank(backbone, 2)):
        for own, wanted in zip(losses(backbone, bank, [1, 1, 1]), plain, strict=True):
            torch.testing.assert_close(own, wanted)


def test_a_prefix_starts_as_the_prompt_it_is_made_of() -> None:
    backbone = tiny()
    start = initial_prompts(backbone, 4, "vocabulary", [5])
    prompt, prefix = DirectBank(start), prefix_bank(backbone, start)
    for own, wanted in zip(losses(backbone, prefix, [0] * 3), losses(backbone, prompt, [0] * 3), strict=True):
        torch.testing.assert_close(own, wanted, atol=1e-5, rtol=1e-4)


def test_all_weights_take_one_row_a_batch() -> None:
    backbone = tiny()
    with pytest.raises(ValueError, match="one row"), full_bank(backbone, 2).applied(backbone, [0, 1]):
        pass


def test_prefixes_are_for_decoders_and_t5() -> None:
    with pytest.raises(BackboneError, match="decoder models and T5 types"):
        prefix_bank(tiny("bart"), torch.zeros(1, 4, 32))


def test_rows_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(BackboneError, match="several examples at once"):
        by_example(torch.zeros(6, 4), lambda x: x)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "t5", "mt5"])
def test_counts_are_those_of_the_bank(kind: str) -> None:
    backbone = tiny(kind)
    assert trainable_parameters(lora_bank(backbone, [0], rank=3)) == lora_parameters(backbone, 3)
    assert trainable_parameters(prefix_bank(backbone, torch.zeros(1, 4, 32))) == prefix_parameters(backbone, 4)
    assert trainable_parameters(full_bank(backbone, 1)) == backbone.parameters


def test_targets_by_name() -> None:
    backbone = tiny()
    assert len(target_modules(backbone)) == 14 and len(target_modules(backbone, ["q_proj", "mlp.up_proj"])) == 4
    assert list(target_modules(backbone, ["layers.0.self_attn.o_proj"])) == ["model.layers.0.self_attn.o_proj"]
    with pytest.raises(TrainingError, match="called 'query'"):
        target_modules(backbone, ["q_proj", "query"])
    assert "model.layers.1.mlp.up_proj" not in lora_bank(backbone, [0], rank=2, targets=["v_proj"]).modules


def frozen(backbone: Backbone) -> bool:
    return not any(p.requires_grad for p in backbone.model.parameters())


def test_full_keeps_tied_weights_tied() -> None:
    """GPT-2's head is its embedding table: one parameter, and the head computes with the row's copy."""
    backbone = tiny("gpt2")
    bank = bank_for("full", backbone, rows=1)
    assert "lm_head.weight" not in bank.parameters
    with bank.applied(backbone, [0]):
        inside = backbone.model.lm_head.weight
        assert torch.equal(inside, bank.parameters["transformer.wte.weight"][0])
    assert frozen(backbone)
