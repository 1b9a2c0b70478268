"""What the package carries: the two models' files, sizes, special tokens, and that they load and answer offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "clinprompt" / "backbone"
LIMITS = {"embedded": 20_000_000, "tiny": 1_000_000}
FILES = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
    "MODEL_CARD.md",
}


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_files_and_size(name: str) -> None:
    folder = SHIPPED / name
    assert not FILES - {path.name for path in folder.iterdir()}
    assert sum(path.stat().st_size for path in folder.iterdir()) < LIMITS[name]
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8").lower()
    assert "not a medical device" in card and "not for use on patients" in card


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_weights_are_those_of_the_configuration_and_finite(name: str) -> None:
    config = json.loads((SHIPPED / name / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama" and config["tie_word_embeddings"]
    with safe_open(str(SHIPPED / name / "model.safetensors"), framework="pt") as file:
        names = set(file.keys())
        assert file.get_tensor("model.embed_tokens.weight").shape == (config["vocab_size"], config["hidden_size"])
        assert all(bool(torch.isfinite(file.get_tensor(key)).all()) for key in names)
    assert not any("codes" in key or "lm_head" in key for key in names)
    assert len(names) == 2 + 9 * config["num_hidden_layers"]


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_tokenizer_is_lossless_and_its_special_tokens_are_fixed(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED / name)
    config = json.loads((SHIPPED / name / "config.json").read_text(encoding="utf-8"))
    assert len(tokenizer) == config["vocab_size"]
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|pad|>", config["pad_token_id"]) == ("<|pad|>", 0)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|eos|>", config["eos_token_id"]) == ("<|eos|>", 1)
    assert tokenizer.bos_token is None
    for text in ("Find: Disease.\nText: IL-2 ↑ 1250 mg/dL;  naïve\n\tcafé 😀\nAnswer:", " leading", "", "a|c; d: #2"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_loads_offline_and_generates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED / name)
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED / name, dtype=torch.float32)
    ids = tokenizer("Find: Age.\nText: A 54-year-old man.\nAnswer:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        output = model.generate(ids, max_new_tokens=8)
        loss = float(model(ids, labels=ids).loss)
    assert output.shape[1] > ids.shape[1]
    assert loss < 0.95 * torch.log(torch.tensor(float(model.config.vocab_size)))
