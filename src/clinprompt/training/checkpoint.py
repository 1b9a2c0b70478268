"""Checkpoints: one safetensors file, replaced atomically, that carries everything a run needs to go on.

`kill -9` at any moment leaves either the old file or the new one. A checkpoint knows which run it belongs to (a hash
of configuration, data and backbone) and is refused by any other.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clinprompt.errors import TrainingError


def write_atomically(tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path) -> None:
    """Write a safetensors file beside `path`, flush it to disk, and move it into place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, partial, metadata={key: json.dumps(value, sort_keys=True) for key, value in metadata.items()})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def save_checkpoint(path: Path, run: str, step: int, tensors: dict[str, Tensor]) -> None:
    """Write a run's whole state after `step` steps."""
    write_atomically(tensors, {"run": run, "step": step}, path)


def load_checkpoint(path: Path, run: str) -> tuple[int, dict[str, Tensor]] | None:
    """Step and state of a checkpoint of this run, None when there is none.

    Raises TrainingError when the file belongs to a run with another configuration, or is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise TrainingError(f"{path}: damaged checkpoint ({error}). Delete it to start this stage again.") from None
    if metadata.get("run") != run:
        raise TrainingError(
            f"{path}: this checkpoint belongs to a run with other settings, data or backbone. Continue with the "
            "settings it was started with, choose another --out, or delete the folder to start again."
        )
    return int(metadata["step"]), tensors


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names with a prefix, for several states in one file."""
    return {f"{prefix}.{name}": tensor.detach().clone() for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state that `prefixed` put under this prefix."""
    return {n.removeprefix(prefix + "."): t for n, t in tensors.items() if n.startswith(prefix + ".")}
