"""Tiny random models saved as folders, each with a tokenizer and chat template like its big relative's."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import AddedToken

from tests.models import byte_tokenizer, tiny

LLAMA_CHAT = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
HARMONY_CHAT = (
    "{% macro system() %}You are ChatGPT.\nCurrent date: {{ strftime_now('%Y-%m-%d') }}\n\nReasoning: medium\n"
    "# Valid channels: analysis, commentary, final.{% endmacro %}"
    "<|start|>system<|message|>{{ system() }}<|end|>"
    "{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
LLAMA_MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
HARMONY_MARKS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"]


def save_tiny(folder: Path, kind: str = "llama", *, template: str = "", marks: list[str] | None = None) -> Path:
    """A model of class `kind` with these special tokens and chat template; LLaMA's tokenizer adds BOS, as it does."""
    tokenizer = copy.deepcopy(byte_tokenizer(kind == "llama"))
    tokenizer.chat_template = template or None
    if marks:
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(m, special=True) for m in marks]})
    backbone = tiny(kind, vocab_size=259 + len(marks or []))
    backbone.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
