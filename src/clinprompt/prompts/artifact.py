"""What is stored and shipped: a metaprompt (shared P* with the vectors of its source tasks) and task files.

Each is one safetensors file that says everything about itself: the tasks with their labels and instructions, the
backbone it was made for (by fingerprint), how it was trained, what data it saw under which licences, and its scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import ArtifactError, BackboneError, unknown_name
from clinprompt.prompts.files import read_file, tensor_digest, write_atomically
from clinprompt.tasks.definition import TaskDefinition

FORMAT_VERSION = 1
Mode = Literal["full", "vectors", "group", "shared", "frozen"]
"""What of a metaprompt its targets train (`methods.mpt`)."""
ADAPTERS = ("lora", "prefix", "full", "lora+prefix", "peml")
"""Methods whose task files hold what is trained inside the backbone."""
FAMILY = ("mtl-lora", "multilora", "c-poly", "moelora", "mixlora", "loramoe")
"""Adapters that are learned for several tasks at once."""


class BackboneNote(BaseModel):
    """Which base model an artifact belongs to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    fingerprint: str
    width: int


class DataNote(BaseModel):
    """What one task's training saw; the digest identifies the examples without holding any of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    licence: str = ""
    permissive: bool | None = None
    records: int = 0
    examples: int = 0
    digest: str = ""


class Card(BaseModel):
    """The self-description of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["metaprompt", "task", "multitask"]
    version: int = FORMAT_VERSION
    library: str = ""
    backbone: BackboneNote
    position: PromptPosition
    tasks: tuple[TaskDefinition, ...]
    method: str = ""
    mode: Literal["", Mode] = ""
    adapter: dict[str, Any] = Field(default_factory=dict, description="what an adapter is besides its numbers")
    metaprompt: str = Field(default="", description="digest of the metaprompt a task file started from")
    metaprompt_path: str = Field(default="", description="file name of that metaprompt, as a hint where to look")
    parent: str = Field(default="", description="digest of the metaprompt that this one extends")
    answer_limit: tuple[int, ...] = Field(default=(), description="most tokens of an answer, per task")
    settings: dict[str, Any] = Field(default_factory=dict)
    data: tuple[DataNote, ...] = ()
    metrics: dict[str, Any] = Field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True)
class Metaprompt:
    """Shared prompt (l, d) and task vectors u (T, l, r), v (T, d, r) of T named source tasks."""

    shared: Tensor
    u: Tensor
    v: Tensor
    card: Card

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.card.tasks]

    @property
    def digest(self) -> str:
        return tensor_digest({"shared": self.shared, "u": self.u, "v": self.v})

    def row(self, name: str) -> int:
        """Index of a source task. Raises ArtifactError listing the known names."""
        if name not in self.names:
            raise ArtifactError(unknown_name("source task", name, self.names))
        return self.names.index(name)

    def prompt(self, name: str) -> Tensor:
        """(l, d): P* ∘ (u vᵀ) of a source task."""
        row = self.row(name)
        return self.shared * (self.u[row] @ self.v[row].T)


@dataclass(frozen=True)
class TaskPrompt:
    """One task's file: its own prompt (l, d), or vectors u (l, r), v (d, r) on a metaprompt's P*, or the tensors of an
    adapter (LoRA, prefix, all weights; `adapters.files.bank_of` applies them).

    `shared` is P* for vectors, found through the metaprompt when the file was loaded; it is not stored again.
    """

    tensors: dict[str, Tensor]
    card: Card
    shared: Tensor | None = None

    @property
    def task(self) -> TaskDefinition:
        return self.card.tasks[0]

    @property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter instead of a prompt."""
        return self.card.method in (*ADAPTERS, *FAMILY)

    @property
    def prompt(self) -> Tensor:
        """(l, d). Raises ArtifactError for an adapter."""
        if self.is_adapter:
            raise ArtifactError(
                f"the task file of {self.task.name!r} holds {self.card.method}, trained inside the backbone; it is no "
                "soft prompt. Learn the task with --method pt or mpt for that."
            )
        if "prompt" in self.tensors:
            return self.tensors["prompt"]
        assert self.shared is not None
        return self.shared * (self.tensors["u"] @ self.tensors["v"].T)


def backbone_note(backbone: Backbone) -> BackboneNote:
    """The note that ties an artifact to this backbone."""
    # Of a folder only its last part: an artifact that is passed on must not tell where it was made.
    name = Path(backbone.name).name if Path(backbone.name).is_dir() else backbone.name
    return BackboneNote(name=name, fingerprint=backbone.fingerprint, width=backbone.width)


def require_backbone(card: Card, backbone: Backbone, path: Path | str) -> None:
    """Refuse an artifact made for another base model."""
    if (card.backbone.fingerprint, card.backbone.width) != (backbone.fingerprint, backbone.width):
        raise BackboneError(
            f"{path}: made for backbone {card.backbone.name!r} ({card.backbone.fingerprint}, width "
            f"{card.backbone.width}), not for {backbone.name!r} ({backbone.fingerprint}, width {backbone.width}). "
            "A soft prompt means nothing to another model: load that backbone, or learn the task again on this one."
        )


def save_metaprompt(metaprompt: Metaprompt, path: Path) -> Metaprompt:
    """Write the file; returns the metaprompt with its digest in the card."""
    tensors = {"shared": metaprompt.shared, "u": metaprompt.u, "v": metaprompt.v}
    card = metaprompt.card.model_copy(update={"digest": tensor_digest(tensors)})
    write_atomically(tensors, {"clinprompt": card.model_dump(mode="json", exclude_defaults=True)}, path)
    return Metaprompt(metaprompt.shared, metaprompt.u, metaprompt.v, card)


def save_task(task: TaskPrompt, path: Path) -> TaskPrompt:
    """Write a task file: kilobytes with vectors, l·d numbers with a prompt of its own."""
    card = task.card.model_copy(update={"digest": tensor_digest(task.tensors)})
    write_atomically(task.tensors, {"clinprompt": card.model_dump(mode="json", exclude_defaults=True)}, path)
    return TaskPrompt(task.tensors, card, task.shared)


def load_metaprompt(path: Path) -> Metaprompt:
    """Read and verify a metaprompt file."""
    tensors, card = load_verified(path, "metaprompt")
    shared, u, v = (_tensor(tensors, name, 2 if name == "shared" else 3, path) for name in ("shared", "u", "v"))
    if u.shape[0] != len(card.tasks) or v.shape[0] != len(card.tasks) or u.shape[2] != v.shape[2]:
        raise ArtifactError(
            f"{path}: holds vectors for {u.shape[0]} and {v.shape[0]} tasks of rank {u.shape[2]} and {v.shape[2]}, "
            f"but its card names {len(card.tasks)} tasks. The file was put together wrongly; learn it again."
        )
    if (u.shape[1], v.shape[1]) != tuple(shared.shape):
        raise ArtifactError(
            f"{path}: P* is {tuple(shared.shape)} but u is for length {u.shape[1]} and v for width {v.shape[1]}."
        )
    return Metaprompt(shared, u, v, card)


def load_task(path: Path, metaprompts: list[Path] | None = None) -> TaskPrompt:
    """Read and verify a task file. Vectors need the metaprompt they were trained on: it is looked for among
    `metaprompts`, beside the file, and in the package, and accepted by digest only. Raises ArtifactError also for one
    of `metaprompts` that is not there."""
    require_files(metaprompts or [])
    tensors, card = load_verified(path, "task")
    if card.method in (*ADAPTERS, *FAMILY):
        return TaskPrompt({name: _tensor(tensors, name, tensor.ndim, path) for name, tensor in tensors.items()}, card)
    if "prompt" in tensors:
        prompt = _tensor(tensors, "prompt", 2, path)
        _require_width(prompt, card, path)
        return TaskPrompt({"prompt": prompt}, card)
    u, v = _tensor(tensors, "u", 2, path), _tensor(tensors, "v", 2, path)
    shared = _find_metaprompt(path, card, metaprompts or []).shared
    if (u.shape[0], v.shape[0]) != tuple(shared.shape) or u.shape[1] != v.shape[1]:
        raise ArtifactError(
            f"{path}: u {tuple(u.shape)} and v {tuple(v.shape)} do not fit the metaprompt's P* {tuple(shared.shape)}."
        )
    _require_width(shared, card, path)
    return TaskPrompt({"u": u, "v": v}, card, shared)


def _require_width(prompt: Tensor, card: Card, path: Path) -> None:
    if prompt.shape[1] != card.backbone.width:
        raise ArtifactError(
            f"{path}: its prompt is {tuple(prompt.shape)}, but its card names a backbone of width "
            f"{card.backbone.width}. The file was put together wrongly; learn it again."
        )


def packaged_metaprompt() -> Path:
    """The metaprompt that ships with the package for the embedded backbone."""
    return Path(__file__).parent / "packaged" / "embedded.metaprompt.safetensors"


def require_files(metaprompts: Iterable[Path]) -> None:
    """Raises ArtifactError for a metaprompt that was named and is not there."""
    for path in metaprompts:
        if not path.is_file():
            problem = "is a folder; name the .safetensors file in it" if path.is_dir() else "no such file"
            raise ArtifactError(f"{path}: {problem} (named as a metaprompt).")


def _find_metaprompt(path: Path, card: Card, given: list[Path]) -> Metaprompt:
    beside = [found for found in sorted(path.parent.glob("*metaprompt*.safetensors")) if _is_metaprompt(found)]
    hinted = [path.parent / card.metaprompt_path] if card.metaprompt_path else []
    for candidate in [*given, *hinted, *beside, packaged_metaprompt()]:
        if candidate.is_file():
            found = load_metaprompt(candidate)
            if found.digest == card.metaprompt:
                return found
    raise ArtifactError(
        f"{path}: holds task vectors only and needs the metaprompt {card.metaprompt} "
        f"({card.metaprompt_path or 'unnamed'}) they were trained on. Put that file beside it or name it with "
        "--metaprompt."
    )


def _is_metaprompt(path: Path) -> bool:
    """Whether a file is one of ours and holds a metaprompt; its name says neither."""
    try:
        return artifact_kind(path) == "metaprompt"
    except ArtifactError:
        return False


def read_card(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Tensors and card of any of our files, values not verified. Raises ArtifactError for other files."""
    tensors, metadata = read_file(path)
    raw = _raw_card(path, metadata)
    try:
        return tensors, Card.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ArtifactError(f"{path}: unreadable card: {problem['loc']}: {problem['msg']}") from None


def _raw_card(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """The card as it is written, of a format that this version knows: a newer one may have fields and kinds of its
    own, so nothing else is looked at before."""
    raw = metadata.get("clinprompt")
    if not isinstance(raw, dict):
        raise ArtifactError(f"{path}: a safetensors file, but not one of clinprompt's (no card in its metadata)")
    version = raw.get("version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ArtifactError(f"{path}: written by a newer clinprompt (format {version}); update the package.")
    return raw


def load_verified(path: Path, kind: str) -> tuple[dict[str, Tensor], Card]:
    """Tensors and card of a file of this kind, values verified. Raises ArtifactError for others and damaged ones."""
    tensors, card = read_card(path)
    if card.kind != kind:
        raise ArtifactError(f"{path}: this is a {card.kind} file; a {kind} file is needed here.")
    if not card.tasks:
        raise ArtifactError(f"{path}: its card names no task. The file was put together wrongly; learn it again.")
    if card.digest and tensor_digest(tensors) != card.digest:
        raise ArtifactError(f"{path}: its values do not match the digest in its card; the file is damaged.")
    return tensors, card


def _tensor(tensors: dict[str, Tensor], name: str, dimensions: int, path: Path) -> Tensor:
    if name not in tensors:
        raise ArtifactError(f"{path}: holds {sorted(tensors)}, but `{name}` is needed")
    tensor = tensors[name]
    if tensor.ndim != dimensions or not torch.isfinite(tensor).all():
        raise ArtifactError(f"{path}: `{name}` is {tuple(tensor.shape)}; {dimensions} finite dimensions are needed")
    return tensor.to(torch.float32)


def artifact_kind(path: Path) -> str:
    """`metaprompt`, `task` or `multitask`, read from the card. Raises ArtifactError for other files."""
    _, metadata = read_file(path)
    kind = _raw_card(path, metadata).get("kind")
    if kind not in ("metaprompt", "task", "multitask"):
        raise ArtifactError(f"{path}: a safetensors file, but not one of clinprompt's (no card in its metadata)")
    return str(kind)
