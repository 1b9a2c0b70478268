"""Real vLLM with the unmodified base model: prompts through its `prompt_embeds` door, LoRA files as its adapters.

Needs an environment with vLLM: `make test-vllm` makes one and runs these tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from clinprompt.adapters.files import description
from clinprompt.adapters.lora import LoraBank, lora_bank
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import Backbone, load_backbone, model_folder
from clinprompt.prompts.artifact import TaskPrompt, load_task, save_task
from clinprompt.serving import prompt_embeds
from clinprompt.serving.bake_adapters import export_adapters
from clinprompt.serving.vllm_server import PYTHON_VARIABLE, VllmServer, free_port, launch
from tests.serving.baking import save_tasks, soft_answers

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
LIMIT = 12
# No cue at their ends, so that the text goes on and there are many tokens to compare.
SOURCES = (
    "Text: She takes 5 mg of aspirin daily; none of it",
    "The patient was seen in clinic for follow-up of",
    "Mutations of this gene are associated with",
)


@dataclass
class Doors:
    backbone: Backbone
    server: VllmServer
    embeds: Path
    prompts: dict[str, TaskPrompt]
    banks: dict[str, LoraBank]

    def ask(self, **request: Any) -> list[int]:
        """Token ids of a greedy answer without its end."""
        answer = httpx.post(f"{self.server.url}/v1/completions", json=request | {"return_token_ids": True}, timeout=300)
        assert answer.status_code == 200, answer.text
        ids = answer.json()["choices"][0]["token_ids"]
        return ids[:-1] if ids and ids[-1] in self.backbone.end_ids else list(ids)


def lora(backbone: Backbone, card_of: Path, seed: int) -> tuple[Path, LoraBank]:
    """A LoRA task file with random values, large enough to change what is said."""
    bank = lora_bank(backbone, [seed], rank=4, alpha=8.0)
    chance = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(v.shape[1:], generator=chance) * 0.08 for name, v in bank.values().items()}
    bank.restore({name: tensor[None] for name, tensor in tensors.items()})
    card = load_task(card_of).card.model_copy(update={"method": "lora", "adapter": description(bank)})
    file = card_of.with_name(f"lora-{seed}.safetensors")
    save_task(TaskPrompt(tensors, card), file)
    return file, bank


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    if not os.environ.get(PYTHON_VARIABLE):
        pytest.skip(f"needs vLLM in an environment of its own: run `make test-vllm` (or set {PYTHON_VARIABLE})")
    place = tmp_path_factory.mktemp("doors")
    backbone = load_backbone("embedded")
    files = save_tasks(place / "tasks", backbone, ("one", "two", "three"), length=20)
    prompt_embeds.export(files, place / "embeds", backbone="embedded")
    made = [lora(backbone, files[0], seed) for seed in (0, 1)]
    export_adapters([file for file, _ in made], place / "adapters", backbone="embedded")
    folder, _ = model_folder("embedded")
    port = free_port()
    options = [
        *("--model", str(folder), "--served-model-name", "base", "--dtype", "float32", "--port", str(port)),
        *("--host", "127.0.0.1", "--enforce-eager", "--block-size", "32", "--max-num-seqs", "16"),
        *("--enable-prompt-embeds", "--enable-lora", "--max-loras", "2", "--max-lora-rank", "8", "--lora-modules"),
        *(f"lora-{seed}={place / 'adapters' / f'lora-{seed}'}" for seed in (0, 1)),
    ]
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    server = launch(options, port, log=place / "vllm.log", seconds=1500)
    banks = {f"lora-{seed}": bank for seed, (_, bank) in enumerate(made)}
    yield Doors(backbone, server, place / "embeds", {path.stem: load_task(path) for path in files}, banks)
    server.stop()


def test_prompt_embeds_are_token_for_token_the_soft_prompts(doors: Doors) -> None:
    opened = prompt_embeds.open_embeds(doors.embeds)
    answers = set()
    for name, file in doors.prompts.items():
        expected = soft_answers(doors.backbone, file.prompt, file.card.position, LIMIT, SOURCES)
        for source, ids in zip(SOURCES, expected, strict=True):
            assert doors.ask(model="base", **opened.request(name, source)) == ids
            answers.add(tuple(ids))
    assert len(answers) >= 4 and sum(map(len, answers)) >= 40  # worth comparing


def test_lora_files_as_adapters_say_what_they_say_in_process(doors: Doors) -> None:
    answers: set[tuple[int, ...]] = set()
    for name, bank in doors.banks.items():
        for source in SOURCES:
            ids = encode(doors.backbone, [source], None, "start")[0].ids.tolist()
            request = {"prompt": ids, "add_special_tokens": False, "max_tokens": LIMIT, "temperature": 0}
            found = doors.ask(model=name, **request)
            assert found == adapted(doors.backbone, bank, ids)
            answers |= {tuple(found), tuple(doors.ask(model="base", **request))}
    assert len(answers) >= 6 and sum(map(len, answers)) >= 40  # the base model and both adapters say different things


def adapted(backbone: Backbone, bank: LoraBank, ids: list[int]) -> list[int]:
    """Greedy tokens of the adapter in process, without the end."""
    inputs = torch.tensor([ids])
    with bank.inside(backbone, [0], None), torch.inference_mode():
        run = backbone.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=LIMIT,
            do_sample=False,
            eos_token_id=list(backbone.end_ids),
        )
    said: list[int] = run[0, len(ids) :].tolist()
    return said[:-1] if said and said[-1] in backbone.end_ids else said
