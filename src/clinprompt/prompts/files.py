"""Safetensors files that are complete or absent, with JSON beside the tensors in the same file."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clinprompt.errors import ArtifactError


def write_atomically(tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path) -> None:
    """Write a file beside `path`, flush it to disk, and move it into place in one step.

    `kill -9` at any moment leaves either the old file or the new one. The order of keys is kept: that of a task's
    labels is the order in its instruction. Raises ArtifactError where it cannot be written; nothing is left then.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {key: json.dumps(value) for key, value in metadata.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(plain, described, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        with suppress(OSError):  # what cannot be written may not be removable either; the error says why
            partial.unlink(missing_ok=True)
        raise ArtifactError(
            f"{path}: cannot be written ({reason}). See that its folder is one you may write to and that the disk has "
            "room, or name another place."
        ) from None


def _write(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o666 & ~_umask())  # save_file makes it private; an installation is shared
    with path.open("rb") as file:
        os.fsync(file.fileno())


def require_folder(folder: Path) -> None:
    """What takes hours asks before it begins: raises ArtifactError if no file can be written into `folder`, which need
    not exist yet. Creates nothing."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise ArtifactError(f"{nearest}: is a file, and a folder is needed there. Name another place.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ArtifactError(f"{nearest}: not a folder you may write to. Change its permissions or name another place.")


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file. Raises ArtifactError for a missing, foreign or damaged one."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not a readable safetensors file of this library ({error})") from None


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """Hash of names, shapes and values, independent of the order they are given in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
