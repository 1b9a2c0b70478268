"""LoRA task files as PEFT adapter folders (`adapter_config.json`, `adapter_model.safetensors`), for other engines.

PEFT's convention (PEFT 0.21, `tuners/lora`): `base_model.model.<module>.lora_A.weight` (r, in) and `lora_B.weight`
(out, r), scaled by `lora_alpha / r`; a target module is the last part of a name, or a whole one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from clinprompt.adapters.files import bank_of
from clinprompt.adapters.linear import target_modules
from clinprompt.adapters.lora import LoraBank
from clinprompt.adapters.sites import expert_sites
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.prompts.files import write_atomically
from clinprompt.prompts.peft_format import CONFIG, WEIGHTS

ROOT = "base_model.model."


def export_lora(task: TaskPrompt, folder: Path, backbone: Backbone, *, base_model: str = "") -> None:
    """Write a LoRA task file as a PEFT checkpoint; our card goes into the metadata of its tensors.

    `base_model` is what PEFT shall load (a Hugging Face name or a folder); default: the backbone's name. Raises
    ArtifactError for a file that holds no LoRA, BackboneError for another backbone.
    """
    bank = bank_of(backbone, task)
    if not isinstance(bank, LoraBank):
        raise ArtifactError(f"the task file of {task.task.name!r} holds {task.card.method or 'a prompt'}, not lora.")
    if expert_sites(backbone, bank.modules):
        raise ArtifactError(
            f"the task file of {task.task.name!r} adapts single experts of a mixture, which a PEFT folder of LoRA has "
            "no names for. Merge it, or train with `lora.targets: [q_proj, k_proj, v_proj, o_proj]`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{ROOT}{name}.weight": values[0] for name, values in bank.values().items()}
    card = task.card.model_dump(mode="json", exclude_defaults=True)
    write_atomically(tensors, {"clinprompt": card}, folder / WEIGHTS)
    partial = folder / f".{CONFIG}.tmp"
    config = _config(backbone, bank, base_model or task.card.backbone.name)
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(folder / CONFIG)


def _config(backbone: Backbone, bank: LoraBank, base_model: str) -> dict[str, Any]:
    modules: list[nn.Module] = [backbone.model.get_submodule(name) for name in bank.modules]
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if backbone.kind == "seq2seq" else "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": bank.rank,
        "lora_alpha": bank.alpha,
        "target_modules": _targets(backbone, bank.modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in modules),
    }


def _targets(backbone: Backbone, modules: list[str]) -> list[str]:
    """Short names where they mean exactly these layers (engines expect them), else whole ones."""
    short = sorted({name.rpartition(".")[2] for name in modules})
    return short if set(target_modules(backbone, short)) == set(modules) else sorted(modules)
