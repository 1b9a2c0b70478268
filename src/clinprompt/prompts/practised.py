"""Soft prompts that a backbone was pretrained with, as places to start from (our choice; the idea is SPoT's).

The embedded backbone met a few hundred soft prompts of sixteen rows while it was trained: each announced one small task
made from raw text by rule (`docs/embedded-backbone.md`). They are no part of the model, but a prompt that starts at one
of them starts at a place the model knows. One safetensors file: `prompts` (n, rows, d), their names and the fingerprint
of the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.prompts.files import read_file, write_atomically


@dataclass(frozen=True)
class Practised:
    """Prompts (n, rows, d) with what each announced, of the backbone with this fingerprint."""

    prompts: Tensor
    names: tuple[str, ...]
    fingerprint: str


def packaged_practised() -> Path:
    """The file that ships with the package for the embedded backbone."""
    return Path(__file__).parent / "packaged" / "embedded.practised.safetensors"


def save_practised(practised: Practised, path: Path) -> None:
    """Write the file, in half precision: a start need not be exact."""
    metadata = {"practised": {"names": list(practised.names), "fingerprint": practised.fingerprint}}
    write_atomically({"prompts": practised.prompts.to(torch.float16)}, metadata, path)


@cache
def load_practised(path: Path) -> Practised:
    """Read the file. Raises ArtifactError if it is none of these."""
    tensors, metadata = read_file(path)
    note = metadata.get("practised")
    if note is None or "prompts" not in tensors or len(tensors["prompts"]) != len(note["names"]):
        raise ArtifactError(f"{path}: holds no prompts of a pretraining")
    return Practised(tensors["prompts"].float(), tuple(note["names"]), note["fingerprint"])


def practised_of(backbone: Backbone) -> Practised:
    """The packaged prompts, if they belong to this backbone. Raises BackboneError otherwise."""
    path = packaged_practised()
    found = load_practised(path) if path.is_file() else None
    if found is None or found.fingerprint != backbone.fingerprint:
        raise BackboneError(
            f"backbone {backbone.name!r} has no practised prompts; only `embedded` ships with some. "
            "Start from the vocabulary instead (`initial: vocabulary`)."
        )
    return found


def fitted(practised: Tensor, free: Tensor) -> Tensor:
    """Practised prompts (n, rows, d) at the length of `free` (l, d): they stand last, next to the text, as they did in
    pretraining; rows of `free` fill the front. Too long ones lose their first rows. → (n, l, d)"""
    length = len(free)
    kept = practised[:, -length:]
    front = free[: length - kept.shape[1]]
    return torch.cat([front.expand(len(kept), -1, -1), kept], dim=1)
