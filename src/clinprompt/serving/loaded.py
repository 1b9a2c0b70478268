"""A task file made ready to be answered in this process: its codec, what stands before its questions, and what it
changes inside the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.files import bank_of, bank_of_several
from clinprompt.adapters.joint import JointBank
from clinprompt.adapters.mixed import Inside, can_mix
from clinprompt.adapters.prefix import PrefixBank
from clinprompt.adapters.shared import SharedBank
from clinprompt.backbone.model import Backbone, LayerStates
from clinprompt.backbone.prefix_cache import PrefixCache
from clinprompt.errors import ArtifactError
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.prompts.bank import Bank
from clinprompt.prompts.multitask import TaskOfSeveral
from clinprompt.serving.engine import ServedTask


@dataclass(frozen=True, eq=False)
class Loaded(ServedTask):
    """A task that this process answers.

    prefix: keys and values of what stands before every question (of a soft prompt, BOS is among them; of a prefix
    adapter it is not); prompt: a soft prompt that stands inside the question (position `end`); adapter: the bank its
    file holds, prefix included, and the task's `row` there; inside: what it changes in the model.
    """

    prefix: LayerStates | None = None
    prompt: Tensor | None = None
    adapter: Bank | None = None
    row: int = 0
    inside: Inside | None = None

    def skipped(self, insert_at: int) -> int:
        """How many of a question's first tokens stand in the prefix already."""
        return insert_at if self.prefix is not None and self.adapter is None else 0


def adapter_of(backbone: Backbone, file: TaskPrompt, known: Iterable[ServedTask]) -> tuple[Bank, int] | None:
    """The bank of a file and its row there; None for a soft prompt. Tasks of one adapter share the bank that one of
    `known` has. Raises ArtifactError for what cannot be served, BackboneError for files of another backbone."""
    if not file.is_adapter:
        return None
    if file.card.method == "full":
        raise ArtifactError(
            f"the file of {file.task.name!r} holds all weights (full): it is a model of its own and cannot share one "
            "with other tasks. Answer with `clinprompt predict`, or learn the task with --method lora, prefix, pt or "
            "mpt."
        )
    if not isinstance(file, TaskOfSeveral) or file.whole is None:
        return bank_of(backbone, file), 0
    whole = file.whole
    for task in known:
        if isinstance(task, Loaded) and isinstance(task.file, TaskOfSeveral) and task.file.whole is whole:
            assert task.adapter is not None
            return task.adapter, whole.row(file.task.name)
    return bank_of_several(backbone, whole), whole.row(file.task.name)


def prompt_states(backbone: Backbone, file: TaskPrompt) -> tuple[LayerStates | None, Tensor | None]:
    """A soft prompt as keys and values, or (position `end`) as it is; computed by the model."""
    prompt = file.prompt.to(backbone.device)
    if file.card.position == "end":
        return None, prompt
    return PrefixCache(backbone).states(prompt, file.card.position), None


@torch.inference_mode()
def adapter_states(backbone: Backbone, bank: Bank, row: int) -> tuple[LayerStates | None, Inside | None]:
    """An adapter's prefix as keys and values, and what it changes inside; what can be mixed is tried on the model."""
    own, row = (bank.bank, 0) if isinstance(bank, SharedBank) else (bank, row)
    if isinstance(own, PrefixBank):
        return _states(backbone, own), None
    if isinstance(own, JointBank):
        assert isinstance(own.prefix, PrefixBank)  # files hold the prefix that a network made
        return _states(backbone, own.prefix), Inside(own.lora, 0, can_mix(backbone, own.lora))
    assert isinstance(own, AdapterBank)
    return None, Inside(own, row, can_mix(backbone, own))


def _states(backbone: Backbone, bank: PrefixBank) -> LayerStates:
    """Keys and values per layer, each (1, heads, m, head width), in the precision that the model caches."""
    dtype = torch.bfloat16 if backbone.autocast else backbone.model.dtype
    keys, values = (bank.parameters[name].detach()[0].to(dtype) for name in ("keys", "values"))
    return [(key[None], value[None]) for key, value in zip(keys, values, strict=True)]
