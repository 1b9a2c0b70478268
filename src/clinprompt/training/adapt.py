"""Adapting to target tasks: MPT, prompt tuning, prefix, LoRA and all weights as rows of the same loop.

Every plan is one row: a task, a few-shot draw, a seed and its learning rates. Many plans train together, and each ends
where it would have ended alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clinprompt.adapters.bank import AdapterBank
from clinprompt.adapters.files import JOINT, description
from clinprompt.adapters.joint import phases
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TrainingError
from clinprompt.prompts.artifact import Card, Metaprompt, TaskPrompt, backbone_note, require_backbone
from clinprompt.prompts.bank import Bank, DecomposedBank, PromptBank
from clinprompt.records import Record
from clinprompt.training.banks import ON_METAPROMPT, Room, method_of, room_for, starting_bank
from clinprompt.training.batching import TaskExamples
from clinprompt.training.examples import answer_limit, prepare, sample_records
from clinprompt.training.few_shot import draw_shots
from clinprompt.training.identity import run_name, task_digests
from clinprompt.training.learn import SourceTask, data_note, portable
from clinprompt.training.loop import Fit, Problem, fit
from clinprompt.training.processes import Processes
from clinprompt.training.sampling import RowSampler
from clinprompt.training.settings import AdaptSettings, JointSettings
from clinprompt.version import __version__

# Settings that all rows of one training have in common.
SHARED = ("method", "mode", "own_length", "lora", "prefix_length", "joint", "factors")


@dataclass(frozen=True)
class Plan:
    """One adaptation: `settings.shots`, `.draw`, `.seed` and the learning rates may differ between plans; the method
    with what shapes it (mode, LoRA, prefix) and the loop's length and batch size are those of the first plan."""

    target: SourceTask
    settings: AdaptSettings


@dataclass
class Adapted:
    """Task files in the order of the plans, and the losses of the training."""

    tasks: list[TaskPrompt]
    fit: Fit


def adapt(
    backbone: Backbone,
    metaprompt: Metaprompt | None,
    plans: Sequence[Plan],
    *,
    prompt_length: int | None = None,
    checkpoint: Path | None = None,
    processes: Processes | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    tolerant: bool = False,
) -> Adapted:
    """Train all plans together by the method of their settings (`training.banks.method_of`).

    Of a metaprompt that its method does not start from, pt takes length and position, the others nothing. `full` holds
    a copy of the weights per plan. Zero shots train nothing: the task file then holds the start. A plan whose loss is
    no longer a number ends there, with its last finite values, an infinite validation loss and `diverged`, the step, in
    its card; if none is left, that is an error unless `tolerant`. Raises TrainingError, BackboneError.
    """
    first = _check(plans, metaprompt)
    if metaprompt is not None:
        require_backbone(metaprompt.card, backbone, "metaprompt")
    room = room_for(backbone, first.settings, metaprompt, prompt_length)
    examples = [plan_examples(backbone, plan, room.length, room.position) for plan in plans]
    bank, rates = starting_bank(backbone, room, metaprompt, [plan.settings for plan in plans], examples)
    origin = metaprompt if room.method in ON_METAPROMPT else None
    loop = first.settings.loop
    trained = [r for r, e in enumerate(examples) if e.train]
    if not trained:
        nothing = Fit(torch.zeros(0, len(plans)), torch.full((len(plans),), math.nan), torch.zeros(len(plans)))
        return Adapted(_task_files(backbone, origin, plans, examples, bank, room, nothing), nothing)
    if len(trained) < len(plans):
        raise TrainingError("plans with zero shots train nothing; keep them apart from the others")
    problem = Problem(
        bank=bank,
        tasks=examples,
        sampler=RowSampler(
            list(range(len(plans))),
            [len(e.train) for e in examples],
            [f"adapt {p.target.task.name} {p.settings.draw}" for p in plans],
            [p.settings.seed for p in plans],
            loop.batch_size,
        ),
        rates=rates,
        row_tasks=list(range(len(plans))),
        phases=phases((first.settings.joint or JointSettings()).order, list(rates), loop.steps)
        if room.method in JOINT
        else {},
        select="bank" if first.settings.mode == "group" and room.method == "mpt" else "row",
        tolerant=tolerant,
    )
    run = _identity(backbone, origin, plans, examples, room)
    result = fit(backbone, problem, loop, checkpoint=checkpoint, run=run, processes=processes, progress=progress)
    return Adapted(_task_files(backbone, origin, plans, examples, bank, room, result), result)


def _check(plans: Sequence[Plan], metaprompt: Metaprompt | None) -> Plan:
    if not plans:
        raise TrainingError("nothing to adapt: give at least one task")
    first = plans[0]
    for plan in plans[1:]:
        same = {"learning_rate": 1.0, "vector_learning_rate": 1.0}
        if plan.settings.loop.model_copy(update=same) != first.settings.loop.model_copy(update=same):
            raise TrainingError("plans that train together share everything of `loop` but their learning rates")
        for field in SHARED:
            if getattr(plan.settings, field) != getattr(first.settings, field):
                raise TrainingError(f"plans that train together have one `{field}`")
    method = method_of(first.settings, metaprompt)
    if first.settings.factors is not None and method not in ON_METAPROMPT:
        raise TrainingError(f"`factors` belong to {' and '.join(ON_METAPROMPT)}; {method} does not have them.")
    if method == "mpt" and first.settings.mode == "group":
        names = [p.target.task.name for p in plans]
        if len(set(names)) < len(names):
            raise TrainingError("a group shares one P* among different tasks; each task may be in it once")
    return first


def training_records(plan: Plan) -> list[Record]:
    """What a plan trains on: its few-shot draw, or all its training records up to the limit."""
    task, settings = plan.target.task, plan.settings
    if settings.shots is None:
        return sample_records(task.name, plan.target.train, settings.limit)
    return draw_shots(task, plan.target.train, settings.shots, draw=settings.draw, seed=settings.seed)


def plan_examples(backbone: Backbone, plan: Plan, length: int, position: PromptPosition) -> TaskExamples:
    """The encoded examples of a plan: its few-shot draw, or all its training records up to the limit."""
    task, settings = plan.target.task, plan.settings
    # A few-shot run has no validation data to look at: k examples are all it may use, unless it is one of several
    # trials among which a benchmark chooses.
    held = [] if settings.shots is not None and not settings.judged else plan.target.validation
    return prepare(
        backbone,
        task,
        training_records(plan),
        sample_records(task.name, held, settings.validation_records),
        prompt_length=length,
        position=position,
        reserve=settings.target_reserve,
        window=settings.window,
    )


def _identity(
    backbone: Backbone,
    metaprompt: Metaprompt | None,
    plans: Sequence[Plan],
    examples: Sequence[TaskExamples],
    room: Room,
) -> str:
    settings = []
    for plan in plans:
        described = plan.settings.model_dump(mode="json")
        described["loop"].pop("checkpoint_every")
        settings.append(described)
    start = metaprompt.digest if metaprompt else "vocabulary"
    taken = [room.method, room.length, room.position]
    return run_name(backbone, [start, taken, settings, task_digests(examples)])


def _task_files(
    backbone: Backbone,
    metaprompt: Metaprompt | None,
    plans: Sequence[Plan],
    examples: Sequence[TaskExamples],
    bank: Bank,
    room: Room,
    result: Fit,
) -> list[TaskPrompt]:
    files = []
    for row, (plan, seen) in enumerate(zip(plans, examples, strict=True)):
        loss = float(result.validation[row])
        card = Card(
            kind="task",
            library=__version__,
            backbone=backbone_note(backbone),
            position=room.position,
            tasks=(portable(plan.target.task),),
            method=room.method,
            mode=plan.settings.mode if room.method == "mpt" else "",
            adapter=description(bank) if isinstance(bank, AdapterBank) else {},
            metaprompt=metaprompt.digest if metaprompt else "",
            answer_limit=(answer_limit(seen.train, plan.settings.target_reserve),),
            settings={
                **plan.settings.model_dump(mode="json"),
                "window": plan.settings.window or backbone.preset.window,
            },
            data=(data_note(plan.target, seen),),
            metrics=_metrics(loss, int(result.steps[row])),
        )
        files.append(_task_file(bank, row, card, metaprompt))
    return files


def _metrics(loss: float, steps: int) -> dict[str, Any]:
    """What a card says of a training: nothing where nothing was judged, when it stopped if it lost its way."""
    if math.isnan(loss):
        return {}
    return {"validation_loss": round(loss, 4)} if math.isfinite(loss) else {"diverged": steps}


def _task_file(bank: Bank, row: int, card: Card, metaprompt: Metaprompt | None) -> TaskPrompt:
    """One row of a bank as a file: u and v on their metaprompt, a composed prompt, or an adapter's tensors."""
    if isinstance(bank, AdapterBank):
        return TaskPrompt(bank.row(row), card)
    if isinstance(bank, DecomposedBank) and card.mode == "vectors":
        assert metaprompt is not None
        u, v = bank.vectors(torch.tensor([row], device=bank.u.device))
        return TaskPrompt({"u": u.detach()[0].cpu(), "v": v.detach()[0].cpu()}, card, metaprompt.shared)
    prompts: PromptBank = bank  # type: ignore[assignment]
    place = next(iter(bank.values().values())).device
    return TaskPrompt({"prompt": prompts.compose(torch.tensor([row], device=place)).detach()[0].cpu()}, card)
