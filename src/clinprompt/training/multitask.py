"""One adapter for several tasks: every batch mixes tasks, and one file holds what all of them learned.

Row k of the bank is task k. What the tasks share has one slice, which every batch trains; what is a task's own has a
slice per task, trained by its own examples only. The loss of a step is the mean over its label tokens, whatever their
task, and the kept values are those with the best mean validation loss over all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from clinprompt.adapters.files import description
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TrainingError
from clinprompt.prompts.multitask import MultitaskAdapter, save_multitask
from clinprompt.training.batching import TaskExamples
from clinprompt.training.identity import run_name, task_digests, values_digest
from clinprompt.training.learn import SourceTask, claim_folder, source_examples, trained_card
from clinprompt.training.loop import Fit, Problem, fit
from clinprompt.training.multitask_banks import MultitaskBank, adapter_settings, multitask_bank, multitask_method
from clinprompt.training.processes import Processes
from clinprompt.training.sampling import TaskSampler
from clinprompt.training.settings import LoopSettings

FILE, CHECKPOINT = "multitask.safetensors", "multitask.checkpoint.safetensors"


class MultitaskSettings(BaseModel):
    """One adapter for several tasks: which method, its shape, and how it trains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(default="lora", description="a name of `training.multitask_banks.MULTITASK_METHODS`")
    adapter: dict[str, Any] = Field(default_factory=dict, description="the method's own settings, for example rank")
    limit: int = Field(default=1000, ge=1, description="training records per task (hashed sample)")
    validation_records: int = Field(default=64, ge=0, description="validation records per task")
    target_reserve: int = Field(default=256, ge=8, description="tokens kept free for the answer")
    window: int | None = Field(default=None, ge=16, description="tokens of text per window in ner and relation tasks")
    loop: LoopSettings = LoopSettings(steps=600, batch_size=32, learning_rate=0.001, evaluate_every=100)
    stochastic: bool = Field(default=True, description="stochastic task sampling, as in MPT's source stage")
    most_tasks: int = Field(default=8, ge=2, description="κ, most tasks in a batch [O]")
    seed: int = 0


@dataclass
class MultitaskLearned:
    """The adapter as it was written, its losses, and the examples it saw."""

    adapter: MultitaskAdapter
    fit: Fit
    examples: list[TaskExamples] = field(default_factory=list)


def learn_multitask(
    backbone: Backbone,
    sources: Sequence[SourceTask],
    settings: MultitaskSettings,
    folder: Path,
    *,
    bank: MultitaskBank | None = None,
    processes: Processes | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> MultitaskLearned:
    """Train one adapter on all tasks into `folder` (checkpoint, multitask.safetensors); the same call continues.

    `bank`: one that was begun elsewhere, of `settings.method`, whose values are part of what the run is; default: as
    the method starts. Raises TrainingError for repeated names or a folder that holds another run, BackboneError where
    the method does not fit the backbone.
    """
    _check(sources)
    processes = processes or Processes()
    chosen = adapter_settings(settings.method, settings.adapter)
    update = {"window": settings.window or backbone.preset.window, "adapter": chosen.model_dump(mode="json")}
    settings = settings.model_copy(update=update)
    start = None if bank is None else values_digest(bank.values())
    bank = bank or multitask_bank(backbone, len(sources), settings.method, settings.adapter, settings.seed)
    position: PromptPosition = "front" if bank.length else backbone.preset.prompt_position
    examples = [source_examples(backbone, source, settings, bank.length, position) for source in sources]
    run = run_identity(backbone, settings, bank, examples, start)
    claim_folder(folder, run, settings, processes)
    result = fit(
        backbone,
        multitask_problem(bank, examples, settings),
        settings.loop,
        checkpoint=folder / CHECKPOINT,
        run=run,
        processes=processes,
        progress=progress,
    )
    about = description(bank) | {"per_task": list(bank.per_task)}
    card = trained_card(
        "multitask", settings.method, backbone, sources, examples, settings, position, result, adapter=about
    )
    adapter = MultitaskAdapter(bank.stored(), card)
    if processes.main:
        adapter = save_multitask(adapter, folder / FILE)
    processes.wait()
    return MultitaskLearned(adapter, result, examples)


def multitask_problem(bank: MultitaskBank, examples: Sequence[TaskExamples], settings: MultitaskSettings) -> Problem:
    """The training of one adapter on the examples of all its tasks, as `training.loop.fit` takes it."""
    rate, method = settings.loop.learning_rate, multitask_method(settings.method)
    chosen, trained = adapter_settings(settings.method, settings.adapter), bank.trainable()
    return Problem(
        bank=bank,
        tasks=examples,
        sampler=TaskSampler(
            [e.name for e in examples],
            [len(e.train) for e in examples],
            settings.loop.batch_size,
            settings.seed,
            settings.most_tasks,
            settings.stochastic,
        ),
        rates={name: torch.full((p.shape[0],), rate * method.rate(chosen, name)) for name, p in trained.items()},
        phases=method.phases(chosen, list(trained), settings.loop.steps),
        row_tasks=list(range(len(examples))),
        normalise="batch",
        select="bank",
    )


def run_identity(
    backbone: Backbone,
    settings: MultitaskSettings,
    bank: MultitaskBank,
    examples: Sequence[TaskExamples],
    start: str | None = None,
) -> str:
    """Hash of everything that decides the result; how often checkpoints are written does not. `start`: the digest of a
    bank that was begun elsewhere; how a method starts by itself follows from the settings."""
    described = settings.model_dump(mode="json")
    described["loop"].pop("checkpoint_every")
    shapes = {name: list(values.shape) for name, values in bank.values().items()}
    begun = [] if start is None else [start]
    return run_name(backbone, [described, shapes, task_digests(examples), *begun])


def _check(sources: Sequence[SourceTask]) -> None:
    names = [source.task.name for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TrainingError(f"tasks of one adapter must have different names; repeated: {', '.join(repeated)}")
    if len(names) < 2:
        raise TrainingError("a multi-task adapter is learned from at least two tasks; use `adapt` to learn one task")
