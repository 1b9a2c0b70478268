"""Loading by folder: safetensors only, no remote code, and a fingerprint that tells models apart."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clinprompt.backbone import model as loading
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states
from clinprompt.backbone.model import load_backbone, wrap
from clinprompt.errors import BackboneError
from tests.backbone.folders import save_tiny
from tests.models import byte_tokenizer, tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_model_is_frozen_and_the_one_that_was_saved(folder: Path) -> None:
    backbone = load_backbone(folder)
    assert not any(p.requires_grad for p in backbone.model.parameters()) and not backbone.model.training
    saved = load_file(folder / "model.safetensors")
    assert torch.equal(backbone.model.get_input_embeddings().weight, saved["model.embed_tokens.weight"])
    assert (backbone.width, backbone.vocabulary, backbone.kind, backbone.sliding_window) == (32, 259, "causal", None)
    assert backbone.end_ids == (2,) and backbone.preset.chat is False


def test_pickled_weights_are_never_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"no \*\.safetensors weights.*safe_serialization=True"):
        load_backbone(folder)


def test_remote_code_never_runs(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    edit_json(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    with pytest.raises(BackboneError, match="cannot load this base model"):
        load_backbone(folder)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["no-such-model", "a/b/c", "/no/such/folder"])
def test_unknown_names_list_the_presets(name: str) -> None:
    with pytest.raises(BackboneError, match=r"neither a folder nor a Hugging Face name.*gpt-oss-20b, .*meditron3-8b"):
        load_backbone(name)


def test_a_model_that_is_not_there_says_how_to_bring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match="copy the folder here and give its path"):
        load_backbone("nobody/nothing", offline=True)


def test_broken_folders_are_explained(folder: Path) -> None:
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    with pytest.raises(BackboneError, match="cannot load this base model"):
        load_backbone(folder)
    (folder / "config.json").write_text(whole)
    with pytest.raises(BackboneError, match="unknown dtype 'float8'; known: float32, bfloat16"):
        load_backbone(folder, dtype="float8")
    with pytest.raises(BackboneError, match="unknown backbone preset 'gpt-oss'"):
        load_backbone(folder, preset="gpt-oss")


def test_devices_are_those_that_are_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_backbone(folder, device="cpu").device == load_backbone(folder, device="cpu:0").device
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(BackboneError, match=r"'cuda:2' is not here\. Give one of: cpu, cuda, cuda:0, cuda:1, auto"):
        load_backbone(folder, device="cuda:2")
    with pytest.raises(BackboneError, match="'mps' is not here"):
        load_backbone(folder, device="mps")


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.eos_token = None
    with pytest.raises(BackboneError, match="no end-of-sequence token"):
        wrap(tiny().model, tokenizer)


def test_a_missing_padding_token_is_the_end_token(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    tokenizer = load_backbone(folder).tokenizer
    assert tokenizer.pad_token_id is not None


def test_four_bits_need_their_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install 'clinprompt\[quantise\]'"):
        load_backbone(folder, quantise="4bit")


# -- fingerprint -----------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_model_not_of_how_it_was_loaded(folder: Path, tmp_path: Path) -> None:
    prints = {
        load_backbone(folder).fingerprint,
        load_backbone(folder, dtype="bfloat16").fingerprint,
        load_backbone(folder, autocast=True).fingerprint,
        load_backbone(folder.rename(tmp_path / "moved elsewhere")).fingerprint,
    }
    assert len(prints) == 1


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_one_changed_weight_is_another_model(folder: Path, name: str) -> None:
    before = load_backbone(folder).fingerprint
    tensors = load_file(folder / "model.safetensors")
    tensors[name][0, 0] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone(folder).fingerprint != before


def test_another_vocabulary_is_another_model(folder: Path) -> None:
    before = load_backbone(folder).fingerprint
    raw = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = raw["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert load_backbone(folder).fingerprint != before


def test_fingerprint_in_memory_tells_seeds_apart() -> None:
    assert tiny().fingerprint == tiny().fingerprint != tiny(seed=1).fingerprint
    assert tiny().fingerprint != tiny("qwen3").fingerprint


# -- precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"autocast": True}])
def test_lower_precision_is_close_and_prompts_stay_fp32(folder: Path, how: dict[str, Any]) -> None:
    exact, rough = load_backbone(folder), load_backbone(folder, **how)
    prompt = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    states = []
    for backbone in (exact, rough):
        batch = collate(backbone, encode(backbone, ["Text: fever"], ["none"], "start"))
        states.append(label_states(backbone, batch, prompt).hidden.float())
    scale = float(states[0].detach().abs().max())
    assert 0 < float((states[0] - states[1]).detach().abs().max()) < 0.2 * scale
    states[1].sum().backward()
    assert prompt.grad is not None and prompt.grad.dtype == torch.float32 and torch.isfinite(prompt.grad).all()
