"""Tiny models as folders, task files made for them, and both ways of answering: soft prompt and baked tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken, AutoModelForCausalLM

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.evaluation.decoding import Decoder
from clinprompt.prompts.artifact import TaskPrompt, save_task
from clinprompt.serving.baked import Baked
from tests.models import byte_tokenizer, tiny
from tests.prompts.cards import definition, task_for

SOURCES = (
    "Find: Drug.\nText: She takes 5 mg of it; none helped.\nAnswer:",
    "Decide.\nPremise: a\nHypothesis: b\nAnswer:",
    "Text: 42-year-old woman seen in clinic for follow-up of gout.\nAnswer:",
)


def save_model(
    folder: Path,
    kind: str = "llama",
    *,
    bos: bool = False,
    template: str = "",
    marks: tuple[str, ...] = (),
    **config: Any,
) -> Path:
    """A tiny random model as a folder; `marks` are further special tokens of its tokenizer."""
    tokenizer = copy.deepcopy(byte_tokenizer(bos))
    tokenizer.chat_template = template or None
    if marks:
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(m, special=True) for m in marks]})
    backbone = tiny(kind, **{"vocab_size": 259 + len(marks), **config})
    backbone.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tasks(
    folder: Path, backbone: Backbone, names: tuple[str, ...], *, length: int = 5, position: str = "start"
) -> list[Path]:
    """Task files with random prompts of the size of embeddings, each its own."""
    paths = []
    for seed, name in enumerate(names):
        task = task_for(backbone, length=length, position=position, seed=seed)
        card = task.card.model_copy(update={"tasks": (definition(name),), "answer_limit": (12,)})
        scale = float(backbone.model.get_input_embeddings().weight.float().std())
        path = folder / f"{name}.safetensors"
        save_task(TaskPrompt({"prompt": task.prompt * scale}, card), path)
        paths.append(path)
    return paths


def soft_answers(
    backbone: Backbone, prompt: torch.Tensor, position: str, limit: int = 12, sources: Sequence[str] = SOURCES
) -> list[list[int]]:
    """Greedy tokens under a soft prompt, by the library's own decoder."""
    decoder = Decoder(backbone, prompt[None], position)  # type: ignore[arg-type]
    examples = encode(backbone, sources, None, position)  # type: ignore[arg-type]
    return [decoder._generate_chunk([example], [0], limit)[0] for example in examples]


def baked_answers(baked: Baked, name: str, ends: tuple[int, ...], limit: int = 12) -> list[list[int]]:
    """Greedy tokens of the baked folder as stock Transformers loads and runs it."""
    model = AutoModelForCausalLM.from_pretrained(baked.folder, dtype="auto")
    found = []
    for source in SOURCES:
        ids = torch.tensor([baked.ids(name, source)])
        with torch.inference_mode():
            run = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, eos_token_id=list(ends)
            )
        answer = run[0, ids.shape[1] :].tolist()
        found.append(answer[:-1] if answer and answer[-1] in ends else answer)
    return found


def soft_logits(backbone: Backbone, prompt: torch.Tensor) -> torch.Tensor:
    """(V,) logits of the first answer token under a soft prompt at `start`."""
    [example] = encode(backbone, SOURCES[:1], None, "start")
    embedded = backbone.embed(torch.from_numpy(example.ids).long())
    place = example.insert_at
    inputs = torch.cat([embedded[:place], prompt.to(embedded.dtype), embedded[place:]])
    with torch.inference_mode():
        logits: torch.Tensor = backbone.model(inputs_embeds=inputs[None]).logits[0, -1].float()
    return logits


def baked_logits(baked: Baked, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(V + R,) the same, of the baked folder in stock Transformers."""
    model = AutoModelForCausalLM.from_pretrained(baked.folder, dtype=dtype)
    with torch.inference_mode():
        return model(torch.tensor([baked.ids(name, SOURCES[0])])).logits[0, -1].float()


def loaded(folder: Path, dtype: str = "float32") -> Backbone:
    """The backbone of a folder, named by it."""
    return replace(load_backbone(folder, dtype=dtype), name=str(folder))
