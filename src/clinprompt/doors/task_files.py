"""Tasks by the names a pipeline's configuration has for them, each as a task file that stands alone."""

from __future__ import annotations

from pathlib import Path

from clinprompt import api
from clinprompt.errors import ArtifactError, TaskError
from clinprompt.prompts.artifact import Metaprompt, TaskPrompt, save_task
from clinprompt.prompts.multitask import MultitaskAdapter


def task_file(task: str, metaprompt: str | None) -> TaskPrompt:
    """A task file by path, or one made of a metaprompt's source task."""
    if task.endswith(".safetensors"):
        found = api.load_artifact(task, [api.artifact_path(metaprompt)] if metaprompt else [])
        if isinstance(found, TaskPrompt):
            return found
        if isinstance(found, MultitaskAdapter):
            raise ArtifactError(
                f"{task}: an adapter of several tasks ({', '.join(found.names)}); save one of them alone."
            )
        raise ArtifactError(f"{task}: a metaprompt; give it as `metaprompt` and its tasks' names as `tasks`.")
    if metaprompt is None:
        raise TaskError(f"clinprompt: task {task!r} is no .safetensors file; to mean a source task, set `metaprompt`.")
    return _of_source(api.load_artifact_as(metaprompt, "metaprompt"), task)


def _of_source(metaprompt: Metaprompt, name: str) -> TaskPrompt:
    row, card = metaprompt.row(name), metaprompt.card
    changes = {
        "kind": "task",
        "tasks": (card.tasks[row],),
        "answer_limit": card.answer_limit[row : row + 1],
        "data": tuple(note for note in card.data if note.task == name),
        "metrics": {},
        "mode": "full",
        "metaprompt": metaprompt.digest,
    }
    return TaskPrompt({"prompt": metaprompt.prompt(name)}, card.model_copy(update=changes))


def save_whole(file: TaskPrompt, path: Path) -> None:
    """Write a task file that needs no metaprompt beside it: vectors become the prompt that they stand for."""
    save_task(file if file.is_adapter else TaskPrompt({"prompt": file.prompt}, file.card), path)
