"""Distillation of teachers into the student bank: MPT's `L = L_LM + λ (L_logits + L_hidden)` (arXiv 2303.02861, §3.2).

The teacher is a frozen prompt on the frozen backbone, so what it says about an example never changes: its hidden
states at the label positions are computed once and kept. Its logits are not stored, since the frozen head gives them
back exactly: at width 256 and a vocabulary of 8,192 that is 1/32 of the memory, at LLaMA's 128,256 words also 1/32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from clinprompt.backbone.injection import LabelStates, collate, label_states
from clinprompt.backbone.model import Backbone
from clinprompt.prompts.bank import PromptBank
from clinprompt.prompts.files import write_atomically
from clinprompt.training.batching import TaskExamples, chunks, forward_tokens


@dataclass(frozen=True)
class Distillation:
    """Loss weights: λ on both terms (0.9 [R]); τ = 1 and last layer at label positions are our choices."""

    states: list[list[Tensor]]  # [task][example] → (labels, layers, d)
    weight_logits: float = 0.9
    weight_hidden: float = 0.9
    temperature: float = 1.0
    layers: tuple[int, ...] = (-1,)

    def losses(
        self, backbone: Backbone, student: LabelStates, picks: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Per label (n,): KL(teacher ‖ student) of the softened logits, and the mean squared difference of states."""
        kept = [self.states[task][example] for task, example in picks]
        teacher = torch.cat(kept).to(student.hidden.device, torch.float32)  # (n, layers, d)
        zero = student.hidden.new_zeros(len(teacher), dtype=torch.float32)
        logits, hidden = zero, zero
        if self.weight_hidden:
            hidden = (student.hidden.float() - teacher).square().mean(dim=(1, 2))
        if self.weight_logits:
            logits = self._divergence(backbone, student.hidden[:, -1], teacher[:, -1])
        return logits, hidden

    def _divergence(self, backbone: Backbone, student: Tensor, teacher: Tensor) -> Tensor:
        with backbone.precision():
            said = backbone.head(student).float() / self.temperature
            with torch.no_grad():
                wanted = backbone.head(teacher.to(student.dtype)).float() / self.temperature
        return functional.kl_div(said.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True).sum(
            -1
        )


def teacher_states(
    backbone: Backbone,
    teachers: PromptBank,
    tasks: Sequence[TaskExamples],
    layers: tuple[int, ...],
    *,
    folder: Path | None = None,
    writes: bool = True,
    run: str = "",
    micro_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Tensor]]:
    """What teacher k says about every training example of task k: [task][example] → (labels, layers, d).

    With `folder` each task's states are kept in a file, so that an interrupted run does not compute them again; a
    process that does not write (`writes`) only reads what is there.
    """
    states = []
    for index, task in enumerate(tasks):
        file = folder / f"{task.name}.{run}.safetensors" if folder else None
        if file is not None and file.is_file():
            packed = load_file(file)["states"]
        else:
            packed = _states_of(backbone, teachers, index, task, layers, micro_tokens)
            if file is not None and writes:
                write_atomically({"states": packed}, {"task": task.name, "run": run}, file)
        states.append(list(torch.split(packed, [e.labels for e in task.train])))
        if progress:
            progress(index + 1, len(tasks))
    return states


@torch.no_grad()
def _states_of(
    backbone: Backbone, teachers: PromptBank, row: int, task: TaskExamples, layers: tuple[int, ...], micro_tokens: int
) -> Tensor:
    """(labels of all examples in order, layers, d) in the backbone's precision."""
    prompt = teachers.compose(torch.tensor([row], device=backbone.device))
    found: dict[int, Tensor] = {}
    for chunk in chunks([len(e.ids) + teachers.length for e in task.train], forward_tokens(backbone, micro_tokens)):
        batch = collate(backbone, [task.train[i] for i in chunk])
        states = label_states(backbone, batch, prompt.expand(len(chunk), -1, -1), layers)
        parts = torch.split(states.hidden.cpu(), [task.train[i].labels for i in chunk])
        found.update(zip(chunk, parts, strict=True))
    return torch.cat([found[i] for i in range(len(task.train))])
