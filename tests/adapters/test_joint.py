"""A prefix from a network, alone and beside LoRA: it starts as a prompt, folds into keys and values, and learns."""

from __future__ import annotations

import pytest
import torch

from clinprompt.adapters.joint import JointBank, phases
from clinprompt.adapters.lora import LoraBank
from clinprompt.adapters.network import NetworkBank, network_bank, network_parameters
from clinprompt.adapters.prefix import PrefixBank, prefix_bank, prefix_parameters
from clinprompt.architecture.network import Architecture
from clinprompt.architecture.space import OPERATIONS
from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError
from clinprompt.methods.peml import joint_bank, joint_parameters
from clinprompt.prompts.bank import trainable_parameters
from clinprompt.prompts.initialisation import initial_prompts
from tests.adapters.support import losses
from tests.models import tiny

CELL = Architecture(operations=("prenorm-attention", "gated"), width=8, hidden=3, length=4)


def joint(backbone: Backbone, architecture: Architecture | None = CELL, rows: int = 2) -> JointBank:
    """Away from its start, so that every part of it matters."""
    seeds = list(range(rows))
    prompts = initial_prompts(backbone, 4, "vocabulary", seeds)
    bank = joint_bank(backbone, prompts, seeds, architecture, rank=2, alpha=4.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in bank.parameters.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return bank


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "t5"])
def test_a_network_starts_at_the_keys_and_values_of_its_prompt(kind: str) -> None:
    """llama and gemma2 have fewer key/value heads than query heads here."""
    backbone = tiny(kind)
    prompts = initial_prompts(backbone, 4, "vocabulary", [0, 1])
    plain, made = prefix_bank(backbone, prompts), network_bank(backbone, prompts, CELL, [0, 1])
    for row in range(2):
        for name, values in made.row(row).items():
            torch.testing.assert_close(values, plain.parameters[name].detach()[row], atol=1e-4, rtol=1e-4)
    counted = network_parameters(CELL, prefix_parameters(backbone, 1), 4)
    assert trainable_parameters(made) == 2 * counted


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("architecture", [CELL, None])
def test_folded_equals_unfolded_row_by_row(architecture: Architecture | None, kind: str) -> None:
    backbone = tiny(kind)
    bank = joint(backbone, architecture)
    assert trainable_parameters(bank) == 2 * joint_parameters(backbone, 4, architecture, 2)
    crowd = losses(backbone, bank, [1, 0, 1])
    for i, row in enumerate([1, 0, 1]):
        stored = bank.row(row)
        prefix = PrefixBank(stored["prefix.keys"][None], stored["prefix.values"][None])
        lora = LoraBank({n.removeprefix("lora."): t[None] for n, t in stored.items() if n.startswith("lora.")}, 4.0)
        folded = losses(backbone, JointBank(prefix, lora), [0], [i])[0]
        torch.testing.assert_close(folded, crowd[i], atol=1e-5, rtol=1e-5)
        without = losses(backbone, prefix, [0], [i])[0]
        assert (without - folded).abs().max() > 1e-3  # LoRA does something
    assert backbone.prefix is None


def test_gradients_of_a_joint_bank_against_finite_differences() -> None:
    """In float64 on a model that computes in it throughout; a loss with a curve in every parameter."""
    backbone = tiny("gpt2")
    bank = joint(backbone)
    backbone.model.double()
    assert isinstance(bank.prefix, NetworkBank)
    wide = {name: values.double() for name, values in bank.prefix.values().items()}
    network = NetworkBank(wide, CELL.slots, CELL.hidden, bank.prefix.shape)
    bank = JointBank(network, LoraBank({n: v.double() for n, v in bank.lora.values().items()}, 4.0))
    from clinprompt.backbone.encoding import encode
    from clinprompt.backbone.injection import collate, label_states
    from tests.adapters.support import SOURCES, TARGETS

    batch = collate(backbone, encode(backbone, SOURCES, TARGETS, "front"))

    def value() -> torch.Tensor:
        with bank.applied(backbone, [1, 0, 1]) as prompts:
            return label_states(backbone, batch, prompts).hidden.pow(3).mean()

    value().backward()
    generator = torch.Generator().manual_seed(0)
    for names in (("prefix.",), ("lora.",)):  # one direction through all parameters of each part
        chosen = [p for name, p in bank.parameters.items() if name.startswith(names)]
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in chosen]
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                for parameter, direction in zip(chosen, directions, strict=True):
                    parameter += step * direction
                values.append(value())
            for parameter, direction in zip(chosen, directions, strict=True):
                parameter += 1e-6 * direction
        slope = float((values[0] - values[1]) / 2e-6)
        wanted = sum(float((p.grad * d).sum()) for p, d in zip(chosen, directions, strict=True) if p.grad is not None)
        assert all(p.grad is not None and bool(p.grad.any()) for p in chosen)
        assert slope == pytest.approx(wanted, rel=1e-4)


def test_encoder_decoder_models_of_other_types_are_refused() -> None:
    for architecture in (CELL, None):
        with pytest.raises(BackboneError, match="decoder models and T5 types"):
            joint_bank(tiny("bart"), torch.zeros(1, 4, 32), [0], architecture)


def test_phases_take_turns() -> None:
    names = ["prefix.keys", "lora.a.lora_A"]
    assert phases("parallel", names, 9) == {}
    assert phases("sequential", names, 9) == {"prefix.keys": (0, 4), "lora.a.lora_A": (4, 9)}


def test_every_operation_can_be_part_of_a_prefix() -> None:
    backbone = tiny()
    prompts = initial_prompts(backbone, 4, "vocabulary", [0])
    for name in OPERATIONS:
        cell = Architecture(operations=(name,), width=8, hidden=3, length=4)
        bank = network_bank(backbone, prompts, cell, [0])
        assert bank.architecture == cell
        assert all(bool(torch.isfinite(values).all()) for values in bank.row(0).values())
