"""What is learned for several tasks at once: one safetensors file with the adapter and the names of all its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clinprompt.errors import ArtifactError, unknown_name
from clinprompt.prompts.artifact import ADAPTERS, FAMILY, Card, TaskPrompt, load_verified
from clinprompt.prompts.files import tensor_digest, write_atomically


@dataclass(frozen=True)
class MultitaskAdapter:
    """The tensors of one adapter for the tasks of its card. Those whose names end in one of `card.adapter["per_task"]`
    have a slice per task, in the card's order, as first dimension; all others are shared."""

    tensors: dict[str, Tensor]
    card: Card

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.card.tasks]

    def row(self, name: str) -> int:
        """Index of a task. Raises ArtifactError listing the known names."""
        if name not in self.names:
            raise ArtifactError(unknown_name("task", name, self.names))
        return self.names.index(name)

    def of(self, name: str) -> TaskOfSeveral:
        """The task file of one task: the shared tensors and its own slices. Raises ArtifactError for unknown names."""
        row = self.row(name)
        own = tuple(f".{part}" for part in self.card.adapter.get("per_task", ()))
        tensors = {key: values[row] if key.endswith(own) else values for key, values in self.tensors.items()}
        update = {
            "kind": "task",
            "tasks": (self.card.tasks[row],),
            "answer_limit": self.card.answer_limit[row : row + 1],
            "data": self.card.data[row : row + 1],
            "metrics": {},
            "digest": "",
        }
        return TaskOfSeveral(tensors, self.card.model_copy(update=update), whole=self)


@dataclass(frozen=True)
class TaskOfSeveral(TaskPrompt):
    """One task of an adapter, as a task file; `whole` is the adapter, so that its tasks can be computed as one."""

    whole: MultitaskAdapter | None = None


def save_multitask(adapter: MultitaskAdapter, path: Path) -> MultitaskAdapter:
    """Write the file; returns the adapter with its digest in the card."""
    card = adapter.card.model_copy(update={"digest": tensor_digest(adapter.tensors)})
    write_atomically(adapter.tensors, {"clinprompt": card.model_dump(mode="json", exclude_defaults=True)}, path)
    return MultitaskAdapter(adapter.tensors, card)


def load_multitask(path: Path) -> MultitaskAdapter:
    """Read and verify the file. Raises ArtifactError for other, damaged or inconsistent files."""
    tensors, card = load_verified(path, "multitask")
    if card.method not in (*ADAPTERS, *FAMILY):
        raise ArtifactError(f"{path}: its card names the method {card.method!r}, which is no adapter of several tasks.")
    own = tuple(f".{part}" for part in card.adapter.get("per_task", ()))
    for name, values in tensors.items():
        if name.endswith(own) and (values.ndim == 0 or len(values) != len(card.tasks)):
            raise ArtifactError(
                f"{path}: `{name}` is {tuple(values.shape)}, but the card names {len(card.tasks)} tasks and each has "
                "its own slice. The file was put together wrongly; learn it again."
            )
    return MultitaskAdapter(tensors, card)
