"""LoRA adapters with random values, and PEFT's own `generate` over them: the way without a serving engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.serving_traffic import Ask, plain_ids
from clinprompt.adapters.files import description
from clinprompt.adapters.lora import lora_bank
from clinprompt.adapters.peft_format import export_lora
from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import Card, TaskPrompt, backbone_note
from clinprompt.tasks.definition import TaskDefinition


def random_adapters(backbone: Backbone, place: Path, count: int, *, rank: int) -> list[Path]:
    """`count` PEFT folders: LoRA on all linear layers but the head; B drawn too, so that each changes what is said."""
    return [_one(backbone, place / f"adapter-{seed}", seed, rank) for seed in range(count)]


def _one(backbone: Backbone, folder: Path, seed: int, rank: int) -> Path:
    bank = lora_bank(backbone, [seed], rank=rank, alpha=float(rank))
    chance = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, values in bank.values().items():
        drawn = torch.randn(values.shape[1:], generator=chance) * 0.02
        tensors[name] = drawn if name.endswith("lora_B") else values[0]
    card = Card(
        kind="task",
        backbone=backbone_note(backbone),
        position="start",
        tasks=(TaskDefinition(name=f"task-{seed}", type="ner", labels={"Problem": "a problem"}),),
        method="lora",
        adapter=description(bank),
    )
    export_lora(TaskPrompt(tensors, card), folder, backbone)
    return folder


def folder_bytes(folder: Path) -> dict[str, int]:
    """Of an adapter: its tensors, and its files with what stands beside them."""
    values = sum(t.numel() * t.element_size() for t in load_file(folder / "adapter_model.safetensors").values())
    return {"values": values, "files": sum(path.stat().st_size for path in folder.iterdir())}


class _FirstToken(StoppingCriteria):
    """Stops nothing; notes when the first token was there."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.at = self.at or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Peft:
    """PEFT's model with all adapters loaded; `new` tokens an answer, greedy, whatever is said."""

    def __init__(self, backbone: Backbone, folders: Sequence[Path], new: int) -> None:
        from peft import PeftModel

        self._backbone, self._new = backbone, new
        self._model: Any = PeftModel.from_pretrained(backbone.model, folders[0], adapter_name="0")
        for number, folder in enumerate(folders[1:], start=1):
            self._model.load_adapter(folder, adapter_name=str(number))
        self._model.generation_config.eos_token_id = None  # answers end at the limit only
        self._model.eval()

    def add(self, folder: Path) -> None:
        self._model.load_adapter(folder, adapter_name="added")

    def one_by_one(self, asked: Sequence[Ask]) -> dict[str, Any]:
        """Requests in the order they came, the adapter switched for each."""
        return self._run(asked, [[number] for number in range(len(asked))])

    def by_adapter(self, asked: Sequence[Ask]) -> dict[str, Any]:
        """All requests of an adapter as one padded batch, adapter after adapter."""
        groups = [[i for i, ask in enumerate(asked) if ask.task == task] for task in sorted({a.task for a in asked})]
        return self._run(asked, groups)

    def _run(self, asked: Sequence[Ask], groups: Sequence[Sequence[int]]) -> dict[str, Any]:
        began = time.perf_counter()
        first, last, texts = [0.0] * len(asked), [0.0] * len(asked), [""] * len(asked)
        for group in groups:
            said, noted = self._generate([asked[i] for i in group])
            done = time.perf_counter() - began
            for i, text in zip(group, said, strict=True):
                first[i], last[i], texts[i] = noted - began, done, text
        return {"seconds": time.perf_counter() - began, "first": first, "last": last, "texts": texts}

    @torch.inference_mode()
    def _generate(self, asked: Sequence[Ask]) -> tuple[list[str], float]:
        ids = [plain_ids(self._backbone, ask) for ask in asked]
        widest, pad = max(map(len, ids)), self._backbone.tokenizer.pad_token_id
        batch = torch.tensor([[pad] * (widest - len(one)) + one for one in ids])
        mask = torch.tensor([[0] * (widest - len(one)) + [1] * len(one) for one in ids])
        self._model.set_adapter(str(asked[0].task))
        noted = _FirstToken()
        run = self._model.generate(
            input_ids=batch,
            attention_mask=mask,
            max_new_tokens=self._new,
            do_sample=False,
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([noted]),
        )
        tokenizer = self._backbone.tokenizer
        return [tokenizer.decode(one[widest:], skip_special_tokens=True).strip() for one in run], noted.at
