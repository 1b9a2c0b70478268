"""What a task weighs, on paper: from the shapes of a model alone."""

from __future__ import annotations

from typing import Any

from benchmarks import models
from clinprompt.adapters.lora import lora_parameters


def on_paper(shape: str, *, rank: int, lengths: tuple[int, ...], bytes_each: int = 2) -> dict[str, Any]:
    """Numbers and bytes of a task at a shape of `models.SHAPES`: LoRA on all linear layers, prompts, task vectors.

    Task vectors are what a task file holds beside a shared metaprompt: u (length) and v (width).
    """
    backbone = models.load(shape, "meta", "bfloat16")
    adapter, width = lora_parameters(backbone, rank), backbone.width
    found: dict[str, Any] = {"shape": shape, "width": width, "rank": rank, "adapter_bytes": adapter * bytes_each}
    for length in lengths:
        prompt, vectors = length * width, length + width
        found[f"prompt-{length}"] = {
            "prompt_bytes": prompt * bytes_each,
            "adapter_over_prompt": round(adapter / prompt, 1),
            "vectors_bytes": vectors * bytes_each,
            "adapter_over_vectors": round(adapter / vectors, 1),
        }
    return found
