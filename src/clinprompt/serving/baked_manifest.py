"""What a baked model folder says about itself: `clinprompt.json`, written last: it is the commit of a change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from clinprompt.backbone.presets import BackbonePreset
from clinprompt.errors import ArtifactError, unknown_name
from clinprompt.prompts.artifact import BackboneNote, Card

MANIFEST = "clinprompt.json"
FORMAT = 1
BLOCK = 1 << 22
SPELLED = "<|task:"  # how every new token begins
Digest = str


class FileNote(BaseModel):
    """Size and SHA-256 of a file. Of the embedding table only the part that never changes is hashed here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: Digest


class Template(BaseModel):
    """A request as text: `before` + the source our codec renders + `after`; `add_special_tokens` is the engine's option
    of that name (true is every engine's default)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: str
    after: str
    add_special_tokens: bool = True


class BakedTask(BaseModel):
    """One task: its card, the token ids its prompt became, and how a request for it is written.

    `rows` is the SHA-256 of the prompt's rows as stored. `template` is None where no text gives the right tokens;
    requests are then sent as token ids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    card: Card
    ids: tuple[int, ...]
    rows: Digest
    template: Template | None

    @property
    def tokens(self) -> list[str]:
        """The new tokens, in order."""
        return [token(self.name, place) for place in range(len(self.ids))]


class TableNote(BaseModel):
    """Where the two vocabulary tables lie. `rows` are the backbone's own, `room` those behind them for prompts.

    `scale`: what the embedding layer multiplies a row by (1 for most models). `prefix` covers the embedding file's
    header and the backbone's rows: the bytes that adding or removing a task does not touch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding_file: str
    embedding: str
    head_file: str
    head: str
    rows: int
    room: int
    tokens: int  # of the backbone's tokenizer; ids from here to `rows` belong to no token
    scale: float = 1.0
    prefix: FileNote


class GgufNote(BaseModel):
    """The GGUF file that a manifest beside it is about, and whether llama.cpp splits text into words by the tokenizer's
    own rule or, not knowing it, by GPT-2's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    note: FileNote
    splitting: Literal["own", "gpt-2"]


class Manifest(BaseModel):
    """All of `clinprompt.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["baked"] = "baked"
    format: int = FORMAT
    library: str
    backbone: BackboneNote
    preset: BackbonePreset
    dtype: Literal["float32", "bfloat16"]
    tables: TableNote
    tasks: tuple[BakedTask, ...]
    files: dict[str, FileNote]
    gguf: GgufNote | None = None

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def used(self) -> set[int]:
        """Ids of all prompts."""
        return {index for task in self.tasks for index in task.ids}

    @property
    def free(self) -> list[int]:
        """Ids that wait for a prompt, ascending."""
        used, first = self.used, self.tables.rows
        return [index for index in range(first, first + self.tables.room) if index not in used]

    def task(self, name: str) -> BakedTask:
        """A task by name. Raises ArtifactError listing the known ones."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise ArtifactError(unknown_name("baked task", name, self.names))


def token(name: str, place: int) -> str:
    """The token of one position of a task's prompt."""
    return f"{SPELLED}{name}:{place}|>"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a baked folder. Raises ArtifactError for any other folder."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: not a baked model (no {MANIFEST}). Make one with `clinprompt bake … --out`.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(raw, dict) and raw.get("format", FORMAT) > FORMAT:
            raise ArtifactError(f"{path}: written by a newer clinprompt (format {raw['format']}); update the package.")
        return Manifest.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ArtifactError(f"{path}: unreadable: {problem['loc']}: {problem['msg']}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ArtifactError(f"{path}: unreadable: {error}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it in one step."""
    write_json(
        folder / MANIFEST, manifest.model_dump(mode="json", exclude_defaults=True) | {"kind": "baked", "format": FORMAT}
    )


def write_json(path: Path, data: object) -> None:
    """JSON, flushed and moved into place in one step."""
    import os

    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def note(path: Path, size: int | None = None) -> FileNote:
    """Size and hash of a file, or of its first `size` bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    total = left
    with path.open("rb") as file:
        while left and (block := file.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return FileNote(bytes=total - left, sha256=digest.hexdigest())
