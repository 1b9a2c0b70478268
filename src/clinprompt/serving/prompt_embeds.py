"""Soft prompts for vLLM's `prompt_embeds` door: the backbone is served as it is, the client embeds its requests.

A folder holds the backbone's embedding table, every task's prompt and the tokenizer. A request is the rows of its
tokens with the prompt's rows among them, serialised as vLLM wants it (base64 of a `torch.save`d tensor). Compared with
a baked model nothing is added to the vocabulary, but every request carries (l + n)·d numbers.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save
from torch import Tensor

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import DTYPES, Backbone, model_folder
from clinprompt.backbone.presets import BackbonePreset
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.artifact import BackboneNote, Card, backbone_note, require_backbone
from clinprompt.serving import bake as baking
from clinprompt.serving.baked import text_side
from clinprompt.serving.baked_manifest import FileNote, note, write_json

DESCRIPTION = "prompt-embeds.json"
TABLE = "embedding.safetensors"


class Description(BaseModel):
    """`prompt-embeds.json`: what the folder holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: BackboneNote
    preset: BackbonePreset
    dtype: str
    tasks: dict[str, Card]
    files: dict[str, FileNote]


@dataclass(frozen=True)
class PromptEmbeds:
    """An opened folder."""

    description: Description
    text: Backbone
    table: Tensor  # (V, d)
    prompts: dict[str, Tensor]  # (l, d) each

    def embeds(self, name: str, source: str) -> Tensor:
        """(n, d) input embeddings of a request. Raises ArtifactError for an unknown task."""
        if name not in self.prompts:
            raise ArtifactError(f"no task {name!r} here; known: {', '.join(sorted(self.prompts))}.")
        example = encode(self.text, [source], None, self.description.tasks[name].position)[0]
        rows = self.table[torch.from_numpy(example.ids).long()]
        place = int(example.insert_at)
        return torch.cat([rows[:place], self.prompts[name], rows[place:]])

    def request(self, name: str, source: str) -> dict[str, object]:
        """The body of a request to vLLM's /v1/completions, but for `model`."""
        card = self.description.tasks[name]
        limit = card.answer_limit[0] if card.answer_limit else 128
        return {"prompt_embeds": serialised(self.embeds(name, source)), "max_tokens": limit, "temperature": 0}


def serialised(embeds: Tensor) -> str:
    """A tensor as vLLM's door takes it."""
    buffer = io.BytesIO()
    torch.save(embeds.contiguous(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def export(
    files: Sequence[Path],
    out: Path,
    *,
    backbone: str | None = None,
    dtype: str | None = None,
    metaprompts: Sequence[Path] = (),
    offline: bool = False,
) -> Description:
    """Write the folder; it appears when it is complete. An existing one is refused."""
    if out.exists():
        raise ArtifactError(f"{out}: exists. Name a new folder.")
    loaded = baking.load_all(files, metaprompts)
    named = backbone or loaded[0][1].card.backbone.name
    folder, preset = model_folder(named, offline=offline)
    chosen = dtype or preset.dtype
    if chosen not in DTYPES:
        raise BackboneError(f"unknown dtype {chosen!r}; known: {', '.join(DTYPES)}")
    text = text_side(folder, preset, named)
    for _, artifact, path in loaded:
        require_backbone(artifact.card, text, path)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        found, scale = baking.embedding_table(folder, text), baking.scale_of(text.model.get_input_embeddings())
        # As the embedding layer puts them out, so that a client needs to know nothing of the layer.
        _save(partial / TABLE, "embedding", (found.to(DTYPES[chosen]) * scale).to(DTYPES[chosen]))
        for name, artifact, _ in loaded:
            _save(partial / f"{name}.safetensors", "prompt", artifact.prompt.to(DTYPES[chosen]))
        for pattern in ("tokenizer*", "*.jinja", "config.json", "generation_config.json", "LICENSE*", "NOTICE*"):
            for path in folder.glob(pattern):
                shutil.copyfile(path, partial / path.name)
        described = Description(
            backbone=backbone_note(text),
            preset=preset,
            dtype=chosen,
            tasks={name: artifact.card for name, artifact, _ in loaded},
            files={path.name: note(path) for path in sorted(partial.iterdir())},
        )
        write_json(partial / DESCRIPTION, described.model_dump(mode="json", exclude_defaults=True))
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return described


def open_embeds(folder: Path) -> PromptEmbeds:
    """Open a folder that `export` wrote. Raises ArtifactError for any other, or one with a file that was changed."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ArtifactError(f"{folder}: no {DESCRIPTION}. Make one with `clinprompt bake … --as prompt-embeds`.")
    described = Description.model_validate(json.loads(path.read_text(encoding="utf-8")))
    for name, expected in described.files.items():
        if not (folder / name).is_file() or note(folder / name) != expected:
            raise ArtifactError(f"{folder / name}: missing, or not as it was written. Export again.")
    prompts = {name: load_file(folder / f"{name}.safetensors")["prompt"] for name in described.tasks}
    text = text_side(folder, described.preset, described.backbone.name, described.backbone.fingerprint)
    return PromptEmbeds(described, text, load_file(folder / TABLE)["embedding"], prompts)


def _save(path: Path, name: str, tensor: Tensor) -> None:
    path.write_bytes(save({name: tensor.contiguous()}, metadata={"format": "pt"}))
