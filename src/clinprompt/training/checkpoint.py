"""Checkpoints: one file that carries everything a run needs to go on, and knows which run it belongs to.

A run's identity is a hash of its configuration, data and backbone; a checkpoint is refused by any other run.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from clinprompt.errors import ArtifactError, TrainingError
from clinprompt.prompts.files import read_file, write_atomically


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
        tensors, metadata = read_file(path)
    except ArtifactError as error:
        raise TrainingError(f"{error}. Delete it to start this stage again.") from None
    if metadata.get("run") != run:
        raise TrainingError(
            f"{path}: this checkpoint belongs to a run with other settings, data, backbone or precision. Continue with "
            "the settings it was started with, choose another --out, or delete the folder to start again."
        )
    return int(metadata["step"]), tensors


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names with a prefix, for several states in one file."""
    return {f"{prefix}.{name}": tensor.detach().clone() for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state that `prefixed` put under this prefix."""
    return {n.removeprefix(prefix + "."): t for n, t in tensors.items() if n.startswith(prefix + ".")}
