"""Presets: what is known about a base model beyond its files (where it lives, how it is spoken to, sensible defaults).

A preset is a YAML file in `backbone/presets/`; any model without one is used with `BackbonePreset()`'s defaults.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from clinprompt.errors import BackboneError, unknown_name

FOLDER = Path(__file__).parent / "presets"
PromptPosition = Literal["start", "end", "front"]


class BackbonePreset(BaseModel):
    """Defaults for one base model; every field can be overridden where a run is configured.

    `chat`: wrap the source as a user's turn of the tokenizer's own chat template. `answer_prefix`: text the assistant's
    turn must begin with before the answer (gpt-oss: the final channel, so that no reasoning is generated first).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    repository: str = Field(default="", description="Hugging Face name, or empty for a packaged model")
    revision: str = "main"
    licence: str = ""
    chat: bool = False
    answer_prefix: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    prompt_position: PromptPosition = "start"
    prompt_length: int = Field(default=100, ge=1)
    window: int | None = Field(
        default=None, ge=16, description="most tokens of text per window in ner and relation tasks; none: what fits"
    )
    learning_rate: float = Field(default=0.03, gt=0, description="of soft prompts and of the shared prompt")
    vector_learning_rate: float = Field(default=0.03, gt=0, description="of the task vectors u and v")
    adapter_learning_rates: dict[str, PositiveFloat] = Field(
        default={}, description="by method: lora, prefix, full and so on; one not named starts at the first of its grid"
    )


def known_presets() -> list[str]:
    """Names of all shipped presets, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def load_preset(name: str) -> BackbonePreset:
    """The preset of this name. Raises BackboneError listing the known ones, or naming the offending key."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise BackboneError(unknown_name("backbone preset", name, known_presets()))
    raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return BackbonePreset.model_validate({"name": name, **raw})
    except ValidationError as error:
        raise BackboneError(f"{path}: {error}") from None


def find_preset(name: str) -> BackbonePreset:
    """The preset with this name, for this Hugging Face repository, or for a folder called like either; a neutral one
    when there is none."""
    if (FOLDER / f"{name}.yaml").is_file():
        return load_preset(name)
    # A copied download is called …/gpt-oss-20b, or models--openai--gpt-oss-20b/snapshots/<revision> in the hub's cache.
    parts = Path(name).parts
    called = {part.rpartition("--")[2].lower() for part in parts if part.startswith("models--") or part == parts[-1]}
    for known in known_presets():
        preset = load_preset(known)
        repository = preset.repository.lower()
        if repository and (name.lower() == repository or repository.rpartition("/")[2] in called or known in called):
            return preset
    return BackbonePreset(name=name)
