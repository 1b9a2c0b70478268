"""From a relaxed network to a chosen one, and a chosen one to and from its YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from torch import Tensor

from clinprompt.architecture.network import EMBEDDINGS, Architecture, Slots
from clinprompt.errors import TrainingError


def argmax_operations(slots: Slots, logits: Tensor) -> tuple[str, ...]:
    """The candidate with the largest logit in every slot; the first among equals."""
    best = [int(row.argmax()) for row in logits]
    return tuple(candidates[index] for candidates, index in zip(slots, best, strict=True))


def pruned(parameters: Mapping[str, Tensor], operations: tuple[str, ...]) -> dict[str, Tensor]:
    """Of a relaxed network's parameters those that the chosen operations use: embeddings, their weights, and everything
    that is not in a slot."""
    chosen = tuple(f"slot{index}.{name}." for index, name in enumerate(operations))
    return {
        name: value
        for name, value in parameters.items()
        if name == EMBEDDINGS or not name.startswith("slot") or name.startswith(chosen)
    }


def load_architecture(path: Path) -> Architecture:
    """Read the file that a search wrote, or one written by hand. Raises TrainingError naming file and key."""
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such architecture file; `clinprompt search` writes one.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise TrainingError(f"{path}: an architecture is a mapping with operations, width, hidden and length.")
    try:
        return Architecture.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise TrainingError(f"{path}: {problems}. Known: {', '.join(Architecture.model_fields)}") from None


def save_architecture(architecture: Architecture, path: Path) -> None:
    """Write the file; `load_architecture` reads an equal one."""
    raw = architecture.model_dump(mode="json")
    if not raw["search"]:
        del raw["search"]
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    partial.replace(path)
