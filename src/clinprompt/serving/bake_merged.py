"""One adapter merged into the weights: a model folder for one task, which any engine loads as it is.

For one task that is asked very often, or an engine that knows no adapters. Many tasks on one model are what soft
prompts (`bake`) and PEFT folders (`bake_adapters`) are for.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from clinprompt.adapters.files import bank_of
from clinprompt.adapters.merging import deltas, merged_weights
from clinprompt.backbone.model import Backbone, load_backbone, model_folder
from clinprompt.errors import ArtifactError, TrainingError
from clinprompt.prompts.artifact import TaskPrompt, load_task
from clinprompt.serving.bake import COPIED
from clinprompt.serving.baked import GENERATION
from clinprompt.serving.baked_manifest import write_json
from clinprompt.serving.baked_weights import INDEX

CARD = "clinprompt-task.json"
_OWN = ("config.json", GENERATION, INDEX)  # written by the model itself


def export_merged(
    files: Sequence[Path], out: Path, *, backbone: str | None = None, dtype: str | None = None, offline: bool = False
) -> Backbone:
    """Write the base model with the adapter of one task file in its weights; `out` appears when it is complete.

    The sums are computed in fp32 and stored in the model's precision. The task's card lies beside them
    (`clinprompt-task.json`). Returns the merged backbone. Raises ArtifactError for several files, for prompts, and for
    adapters that add nothing to weights (prefixes, routed experts).
    """
    if len(files) != 1:
        raise ArtifactError(
            f"--as merged: {len(files)} task files; a merged model answers one task, so name one file. Many tasks on "
            "one model: bake soft prompts (without --as), or write LoRA files as adapters (--as peft)."
        )
    if out.exists():
        raise ArtifactError(f"{out}: exists. Name a new folder.")
    task = load_task(files[0])
    if not task.is_adapter:
        raise ArtifactError(
            f"{files[0]}: holds a prompt, which is not part of the weights: bake it without --as merged."
        )
    named = backbone or task.card.backbone.name
    model = load_backbone(named, dtype=dtype, offline=offline)
    _merge(model, task, files[0])
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.model.save_pretrained(partial)
        folder, _ = model_folder(named, offline=offline)
        for pattern in COPIED:
            for path in folder.glob(pattern):
                if path.name not in _OWN:
                    shutil.copyfile(path, partial / path.name)
        write_json(partial / CARD, task.card.model_dump(mode="json", exclude_defaults=True))
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return model


@torch.no_grad()
def _merge(backbone: Backbone, task: TaskPrompt, path: Path) -> None:
    """Change the weights of a backbone that nobody else has."""
    try:
        added = deltas(bank_of(backbone, task))
    except TrainingError:
        raise ArtifactError(
            f"{path}: holds {task.card.method}, which is no sum with the weights and cannot be merged. Serve it in "
            "process (`clinprompt serve`)."
        ) from None
    for name, values in merged_weights(backbone, added).items():
        backbone.model.get_parameter(name).copy_(values)
