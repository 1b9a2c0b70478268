"""The adapters that several tasks learn together: by name, what may be set, how a bank of one is made, and its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from clinprompt.adapters.family import FamilyBank, family_bank, family_parameters
from clinprompt.adapters.family_files import FAMILY_BANKS
from clinprompt.adapters.lora import lora_bank, lora_parameters
from clinprompt.adapters.prefix import prefix_bank, prefix_parameters
from clinprompt.adapters.shared import SharedBank
from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError, unknown_name
from clinprompt.prompts.bank import Bank
from clinprompt.prompts.initialisation import initial_prompts
from clinprompt.training.multitask_joint import (
    JointLoraSettings,
    PemlSettings,
    joint_phases,
    joint_rate,
    joint_size,
    shared_joint,
)
from clinprompt.training.settings import LoraSettings


class MultitaskBank(Bank, Protocol):
    """A bank whose row k is task k of one adapter."""

    per_task: tuple[str, ...]
    """Last parts of the names of tensors that have a slice per task."""

    def stored(self) -> dict[str, Tensor]:
        """The tensors of the adapter's file, on the CPU: (T, …) where each task has its own, else without that
        dimension."""
        ...


@dataclass(frozen=True)
class MultitaskMethod:
    """`build(backbone, tasks, settings, seed)` makes the bank; `parameters(backbone, tasks, settings)` counts what it
    trains; `size` is the setting that makes it larger."""

    settings: type[BaseModel]
    build: Callable[[Backbone, int, Any, int], MultitaskBank]
    parameters: Callable[[Backbone, int, Any], int]
    size: str = "rank"
    rate: Callable[[Any, str], float] = lambda settings, name: 1.0
    """The learning rate of a parameter over the loop's."""
    phases: Callable[[Any, Sequence[str], int], dict[str, tuple[int, int]]] = lambda settings, names, steps: {}
    """Steps in which parameters move that do not always."""


class PrefixSettings(BaseModel):
    """Prefix tuning (arXiv 2101.00190) of one prefix for all tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    length: int = Field(default=16, ge=1, description="positions before every layer's own keys and values [O]")
    initial: str = Field(default="vocabulary", description="the prompt at whose keys and values it starts")


def _lora(backbone: Backbone, tasks: int, chosen: LoraSettings, seed: int) -> MultitaskBank:
    return SharedBank(lora_bank(backbone, [seed], rank=chosen.rank, alpha=chosen.alpha, targets=chosen.targets), tasks)


def _prefix(backbone: Backbone, tasks: int, chosen: PrefixSettings, seed: int) -> MultitaskBank:
    prompts = initial_prompts(backbone, chosen.length, chosen.initial, [seed])
    if prompts.shape[1] != chosen.length:
        raise TrainingError(
            f"prefix: {chosen.initial} has {prompts.shape[1]} positions to start from, not {chosen.length}."
        )
    return SharedBank(prefix_bank(backbone, prompts), tasks)


def _member(kind: type[FamilyBank]) -> MultitaskMethod:
    return MultitaskMethod(
        kind.settings_type,
        lambda backbone, tasks, chosen, seed: family_bank(kind, backbone, tasks, chosen, seed),
        lambda backbone, tasks, chosen: family_parameters(kind, backbone, tasks, chosen),
    )


MULTITASK_METHODS: dict[str, MultitaskMethod] = {
    "lora": MultitaskMethod(LoraSettings, _lora, lambda b, _, s: lora_parameters(b, s.rank, s.targets)),
    "lora+prefix": MultitaskMethod(JointLoraSettings, shared_joint, joint_size, rate=joint_rate, phases=joint_phases),
    "peml": MultitaskMethod(PemlSettings, shared_joint, joint_size, rate=joint_rate, phases=joint_phases),
    "prefix": MultitaskMethod(PrefixSettings, _prefix, lambda b, _, s: prefix_parameters(b, s.length), "length"),
    **{name: _member(kind) for name, kind in FAMILY_BANKS.items()},
}


def multitask_method(name: str) -> MultitaskMethod:
    """The method of this name. Raises TrainingError with the nearest name and all known ones."""
    if name not in MULTITASK_METHODS:
        raise TrainingError(unknown_name("multi-task method", name, list(MULTITASK_METHODS)))
    return MULTITASK_METHODS[name]


def adapter_settings(method: str, given: Mapping[str, Any]) -> BaseModel:
    """A method's settings: its defaults with `given` on top. Raises TrainingError naming the keys it knows."""
    kind = multitask_method(method).settings
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        problems = "; ".join(f"`adapter.{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise TrainingError(f"{method}: {problems}. Known: {', '.join(kind.model_fields)}") from None


def multitask_bank(
    backbone: Backbone, tasks: int, method: str, given: Mapping[str, Any], seed: int = 0
) -> MultitaskBank:
    """The adapter of a method for so many tasks, as it starts."""
    return multitask_method(method).build(backbone, tasks, adapter_settings(method, given), seed)


def multitask_parameters(backbone: Backbone, tasks: int, method: str, given: Mapping[str, Any]) -> int:
    """Numbers that the method trains for so many tasks, over all of them."""
    return multitask_method(method).parameters(backbone, tasks, adapter_settings(method, given))
