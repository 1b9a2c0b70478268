"""LoRA and prefixes against PEFT: the same numbers give the same logits and gradients; exported folders load there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clinprompt.adapters.linear import target_modules
from clinprompt.adapters.lora import LoraBank, lora_bank
from clinprompt.adapters.peft_format import export_lora
from clinprompt.adapters.prefix import PrefixBank
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.t5_prefix import attentions, prefixed
from clinprompt.errors import ArtifactError
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.prompts.bank import DirectBank
from tests.adapters.support import SOURCES, TARGETS, bank_for, losses
from tests.models import tiny
from tests.prompts.cards import card, task_for

peft = pytest.importorskip("peft")
KINDS = ["llama", "qwen3", "gpt2", "t5"]


def losses_of_peft(model: Any, backbone: Backbone, index: int) -> Tensor:
    """From the logits of PEFT's own forward pass over the token ids."""
    example = encode(backbone, [SOURCES[index]], [TARGETS[index]], "front")[0]
    ids = torch.from_numpy(example.ids).long()
    labels = ids[example.context :]
    if backbone.kind == "seq2seq":
        logits = model(input_ids=ids[: example.context][None], labels=labels[None]).logits[0]
    else:
        logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0, -len(labels) - 1 : -1]
    return -logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)


def peft_lora(kind: str, bank: LoraBank, row: int) -> Any:
    """PEFT's LoRA on a twin of the model, holding one row's numbers."""
    config = peft.LoraConfig(r=bank.rank, lora_alpha=bank.alpha, target_modules="all-linear")
    if kind == "t5":
        config.task_type = "SEQ_2_SEQ_LM"
    model = peft.get_peft_model(tiny(kind).model, config).eval()
    with torch.no_grad():
        for name in bank.modules:
            layer = model.base_model.model.get_submodule(name)
            layer.lora_A.default.weight.copy_(bank.parameters[f"{name}.lora_A"][row])
            layer.lora_B.default.weight.copy_(bank.parameters[f"{name}.lora_B"][row])
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_lora_rows_have_pefts_logits_and_gradients(kind: str) -> None:
    backbone = tiny(kind)
    bank = bank_for("lora", backbone)
    assert isinstance(bank, LoraBank)
    rows = [2, 0, 2]
    ours = losses(backbone, bank, rows)
    torch.cat(ours).sum().backward()
    for row in (0, 2):
        model = peft_lora(kind, bank, row)
        mine = [i for i, owner in enumerate(rows) if owner == row]
        wanted = [losses_of_peft(model, backbone, i) for i in mine]
        for i, want in zip(mine, wanted, strict=True):
            torch.testing.assert_close(ours[i], want, atol=2e-5, rtol=1e-4)
        torch.cat(wanted).sum().backward()
        for name in bank.modules:
            layer = model.base_model.model.get_submodule(name)
            for half in ("lora_A", "lora_B"):
                gradient = bank.parameters[f"{name}.{half}"].grad
                assert gradient is not None
                theirs = getattr(layer, half).default.weight.grad
                # By norm: T5's ReLU has a kink, at which rounding may decide one element.
                assert (gradient[row] - theirs).norm() <= 1e-3 * theirs.norm()
    assert all(p.grad is not None and not p.grad[1].any() for p in bank.parameters.values())
    assert all(weight.grad is None for weight in backbone.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_lora_starts_as_pefts_does(kind: str) -> None:
    """The same layers, B zero, A uniform in ±1/√in."""
    backbone = tiny(kind)
    bank = lora_bank(backbone, [0, 0, 1], rank=64)
    model = peft.get_peft_model(tiny(kind).model, peft.LoraConfig(r=64, target_modules="all-linear"))
    layers = {n.removesuffix(".lora_A.default") for n, _ in model.named_modules() if n.endswith(".lora_A.default")}
    assert {f"base_model.model.{name}" for name in target_modules(backbone)} == layers
    for name in bank.modules:
        a, b = bank.parameters[f"{name}.lora_A"].detach(), bank.parameters[f"{name}.lora_B"]
        theirs = model.base_model.model.get_submodule(name).lora_A.default.weight.detach()
        assert not b.any() and torch.equal(a[0], a[1]) and not torch.equal(a[0], a[2])
        assert a.abs().max() <= a.shape[2] ** -0.5
        assert float(a[0].std()) == pytest.approx(float(theirs.std()), rel=0.1)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_prefix_rows_have_pefts_logits(kind: str) -> None:
    """llama and qwen3 have fewer key/value heads than heads here."""
    backbone = tiny(kind)
    bank = bank_for("prefix", backbone)
    assert isinstance(bank, PrefixBank)
    rows = [1, 1, 0]
    ours = losses(backbone, bank, rows)
    for i, row in enumerate(rows):
        model = peft.get_peft_model(
            tiny(kind).model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=bank.length)
        ).eval()
        keys, values = (bank.parameters[name].detach()[row] for name in ("keys", "values"))
        pairs = torch.stack([keys, values], dim=1).flatten(0, 1)  # (2 · layers, heads, m, width)
        with torch.no_grad():
            model.prompt_encoder.default.embedding.weight.copy_(pairs.permute(2, 0, 1, 3).flatten(1))
        torch.testing.assert_close(ours[i], losses_of_peft(model, backbone, i), atol=2e-5, rtol=1e-4)


def test_a_decoders_prefix_in_t5_has_pefts_logits() -> None:
    """PEFT's prefix in T5 is before the decoder's self-attention alone. Its positions have a bias, ours none: there is
    none in these models. PEFT 0.21 gives decoder layer i the numbers of layer 2i modulo their count: all have the same.
    """
    backbone, twin = tiny("t5"), tiny("t5")
    for model in (backbone.model, twin.model):
        model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    keys, values = torch.randn(2, 3, 4, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()  # (R, heads, m, w)
    rows, absent = [1, 2, 0], torch.zeros(3, 4, 0, 8)
    states = [
        (keys[rows], values[rows]) if name.startswith("decoder") else (absent, absent) for name in attentions(backbone)
    ]
    with torch.no_grad(), prefixed(backbone, states):
        ours = losses(backbone, DirectBank(torch.zeros(3, 0, 32)), rows)
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(twin.model, config).eval()
    for i, row in enumerate(rows):
        pairs = torch.stack([keys[row], values[row]] * 2)  # (2 · layers, heads, m, w)
        with torch.no_grad():
            model.prompt_encoder.default.embedding.weight.copy_(pairs.permute(2, 0, 1, 3).flatten(1))
            torch.testing.assert_close(ours[i], losses_of_peft(model, backbone, i), atol=2e-5, rtol=1e-4)


def lora_file(backbone: Backbone, bank: LoraBank, row: int) -> TaskPrompt:
    update = {"method": "lora", "adapter": {"alpha": bank.alpha}}
    return TaskPrompt(bank.row(row), card(backbone, "task", ["alone"]).model_copy(update=update))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
def test_exported_folder_loads_in_peft(kind: str, whole: bool, tmp_path: Path) -> None:
    """All linear layers, or one layer alone, whose short name would mean others too."""
    backbone = tiny(kind)
    bank = bank_for("lora", backbone)
    assert isinstance(bank, LoraBank)
    if not whole:
        one = bank.modules[0]
        bank = LoraBank({n: p for n, p in bank.parameters.items() if n.startswith(one + ".")}, bank.alpha)
    export_lora(lora_file(backbone, bank, 1), tmp_path, backbone, base_model="somewhere/base")
    model = peft.PeftModel.from_pretrained(tiny(kind).model, tmp_path).eval()
    with torch.no_grad():
        for i, ours in enumerate(losses(backbone, bank, [1, 1, 1])):
            torch.testing.assert_close(losses_of_peft(model, backbone, i), ours, atol=2e-5, rtol=1e-4)
    assert model.peft_config["default"].base_model_name_or_path == "somewhere/base"


def test_only_lora_is_exported_as_lora(tmp_path: Path) -> None:
    backbone = tiny()
    with pytest.raises(ArtifactError, match="not lora"):
        export_lora(task_for(backbone), tmp_path, backbone)
