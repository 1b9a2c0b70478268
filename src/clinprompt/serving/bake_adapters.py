"""LoRA task files as PEFT adapter folders, one per task, which vLLM serves beside the unmodified base model.

A LoRA changes weights, so it cannot be written as tokens; vLLM's multi-LoRA holds many adapters on one base model.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from clinprompt.adapters.peft_format import export_lora
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.errors import ArtifactError
from clinprompt.serving import bake as baking


def export_adapters(
    files: Sequence[Path], out: Path, *, backbone: str | None = None, dtype: str | None = None, offline: bool = False
) -> Backbone:
    """Write `out/NAME/` for every LoRA task file; `out` appears when it is complete. Returns the backbone they fit.

    Raises ArtifactError for files that hold something else.
    """
    if out.exists():
        raise ArtifactError(f"{out}: exists. Name a new folder.")
    loaded = baking.load_all(files, (), adapters=True)
    named = backbone or loaded[0][1].card.backbone.name
    model = load_backbone(named, dtype=dtype, offline=offline)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, task, _ in loaded:
            export_lora(task, partial / name, model, base_model=named)
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return model
