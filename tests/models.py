"""Tiny randomly initialised models of the architecture classes we claim to support, made in memory in milliseconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clinprompt.backbone.model import Backbone, wrap
from clinprompt.backbone.presets import BackbonePreset

SPECIAL = ["<pad>", "<s>", "</s>"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@cache
def byte_tokenizer(bos: bool = False) -> Any:
    """One token per byte (vocabulary 259); with `bos` it adds <s> by itself, as LLaMA's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        from tokenizers.processors import TemplateProcessing

        core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="right"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def tiny(kind: str = "llama", *, seed: int = 0, bos: bool = False, chat: bool = False, **config: Any) -> Backbone:
    """A backbone of class `kind`: llama, phi, gpt_oss, qwen3, gemma2, gpt2, t5, mt5 or bart; width 32, 2 layers."""
    torch.manual_seed(seed)
    model = _model(kind, config)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    # Larger weights than the usual initialisation, so that outputs depend strongly on inputs and tests can fail.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    preset = BackbonePreset(name=f"tiny-{kind}", chat=chat, prompt_length=5)
    return wrap(model, byte_tokenizer(bos), name=f"tiny-{kind}", preset=preset)


def _model(kind: str, extra: dict[str, Any]) -> Any:
    common: dict[str, Any] = {"vocab_size": 259, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    decoder = {
        **common,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder | extra))
    if kind == "phi":  # its head has a bias
        return transformers.PhiForCausalLM(transformers.PhiConfig(**decoder | extra))
    if kind == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**decoder | {"head_dim": 8} | extra))
    if kind == "gemma2":
        settings = {"head_dim": 8, "sliding_window": 1024, "query_pre_attn_scalar": 8}
        return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**decoder | settings | extra))
    if kind == "gpt_oss":
        settings = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}
        return transformers.GptOssForCausalLM(transformers.GptOssConfig(**decoder | settings | extra))
    if kind == "gpt2":
        small = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**common | small | extra))
    if kind in ("t5", "mt5"):
        t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
        if kind == "mt5":
            return transformers.MT5ForConditionalGeneration(transformers.MT5Config(**common | t5 | extra))
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**common | t5 | extra))
    if kind == "bart":
        sizes = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
        sides = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()}
        bart = {"d_model": 32, "max_position_embeddings": 256, "decoder_start_token_id": 2}
        return transformers.BartForConditionalGeneration(transformers.BartConfig(**common | bart | sides | extra))
    raise ValueError(kind)
