"""The base models of the benchmarks. Random weights where only shapes matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import clinprompt.backbone.model as backbone_model
from benchmarks.machine import DTYPES
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.backbone.presets import BackbonePreset

PACKAGE = Path(backbone_model.__file__).parent

SHAPES: dict[str, dict[str, Any]] = {
    # The packaged backbone's shape, used while the package holds none.
    "embedded": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # LLaMA 3's vocabulary on a small body.
    "wide": {
        "vocab_size": 128256,
        "hidden_size": 512,
        "intermediate_size": 1792,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    # LLaMA 3.1 8B, for accelerators.
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "rope_theta": 500000.0,
    },
    # For the smoke tests of these scripts.
    "smoke": {
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


def load(name: str, device: str, dtype: str) -> Backbone:
    """One of `SHAPES`, the same weights in every process; the packaged backbone for "embedded" if it is there."""
    if name == "embedded" and any((PACKAGE / "embedded").glob("*.safetensors")):
        return load_backbone("embedded", dtype=dtype, device=device)
    tokenizer = AutoTokenizer.from_pretrained(PACKAGE / "tiny", trust_remote_code=False)
    config = LlamaConfig(
        **SHAPES[name], max_position_embeddings=2048, pad_token_id=0, bos_token_id=None, eos_token_id=1
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    # Not `wrap`: it hashes every weight, which takes a minute at 8B and tells nothing about random ones.
    return Backbone(
        name=f"{name} (random weights)",
        model=model,
        tokenizer=tokenizer,
        preset=BackbonePreset(name=name),
        fingerprint="random",
        kind="causal",
        head=model.get_output_embeddings(),
    )


def matrix_weights(backbone: Backbone) -> tuple[int, int]:
    """Weights that every token is multiplied with (all matrices of the layers), and those of the output head."""
    layers = sum(p.numel() for n, p in backbone.model.base_model.layers.named_parameters() if p.ndim == 2)
    return layers, backbone.model.get_output_embeddings().weight.numel()


def floor_flops(backbone: Backbone, tokens: int, labels: int) -> float:
    """Least work of forward and backward without weight gradients: 4 per weight, head at label positions only.

    `tokens` are real ones, prompts included, padding not. Attention's own products (a few per cent here) not counted.
    """
    layers, head = matrix_weights(backbone)
    return 4.0 * (layers * tokens + head * labels)
