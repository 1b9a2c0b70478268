"""Adapting to target tasks: MPT in three modes, and single-task prompt tuning as rows of the same loop.

Every plan is one row: a task, a few-shot draw, a seed and its learning rates. Many plans train together, and each ends
where it would have ended alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TrainingError
from clinprompt.methods.mpt import decomposed_rates, target_bank
from clinprompt.methods.pt import prompt_bank, prompt_rates
from clinprompt.prompts.artifact import Card, Metaprompt, TaskPrompt, backbone_note, require_backbone
from clinprompt.prompts.bank import DecomposedBank, DirectBank
from clinprompt.training.batching import TaskExamples
from clinprompt.training.examples import answer_limit, examples_digest, prepare, sample_records
from clinprompt.training.few_shot import draw_shots
from clinprompt.training.learn import SourceTask, data_note, portable
from clinprompt.training.loop import Fit, Problem, fit, prompt_loss
from clinprompt.training.processes import Processes
from clinprompt.training.sampling import RowSampler
from clinprompt.training.settings import AdaptSettings
from clinprompt.version import __version__


@dataclass(frozen=True)
class Plan:
    """One adaptation: `settings.shots`, `.draw`, `.seed` and the learning rates may differ between plans; the loop's
    length and batch size, the mode and the start are those of the first plan."""

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
) -> Adapted:
    """Train all plans together. Without a metaprompt this is single-task prompt tuning from sampled vocabulary.

    Zero shots train nothing: the task file then holds the starting prompt. Raises TrainingError, BackboneError.
    """
    first = _check(plans, metaprompt)
    if metaprompt is not None:
        require_backbone(metaprompt.card, backbone, "metaprompt")
    length = metaprompt.shared.shape[0] if metaprompt else prompt_length or backbone.preset.prompt_length
    position = metaprompt.card.position if metaprompt else backbone.preset.prompt_position
    examples = [plan_examples(backbone, plan, length, position) for plan in plans]
    bank: DirectBank | DecomposedBank
    if metaprompt is None:
        bank, rates = _free_bank(backbone, plans, length)
    else:
        bank, rates = _mpt_bank(backbone, metaprompt, plans, examples)
    loop = first.settings.loop
    trained = [r for r, e in enumerate(examples) if e.train]
    if not trained:
        nothing = Fit(torch.zeros(0, len(plans)), torch.full((len(plans),), math.nan), torch.zeros(len(plans)))
        return Adapted(_task_files(backbone, metaprompt, plans, examples, bank, position, nothing), nothing)
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
        select="bank" if first.settings.mode == "group" and metaprompt else "row",
    )
    run = _identity(backbone, metaprompt, plans, examples)
    result = fit(backbone, problem, loop, checkpoint=checkpoint, run=run, processes=processes, progress=progress)
    return Adapted(_task_files(backbone, metaprompt, plans, examples, bank, position, result), result)


def _check(plans: Sequence[Plan], metaprompt: Metaprompt | None) -> Plan:
    if not plans:
        raise TrainingError("nothing to adapt: give at least one task")
    first = plans[0]
    for plan in plans[1:]:
        same = {"learning_rate": 1.0, "vector_learning_rate": 1.0}
        if plan.settings.loop.model_copy(update=same) != first.settings.loop.model_copy(update=same):
            raise TrainingError("plans that train together share everything of `loop` but their learning rates")
        if plan.settings.mode != first.settings.mode:
            raise TrainingError("plans that train together have one mode")
    if metaprompt is not None and first.settings.mode == "group":
        names = [p.target.task.name for p in plans]
        if len(set(names)) < len(names):
            raise TrainingError("a group shares one P* among different tasks; each task may be in it once")
    return first


def plan_examples(backbone: Backbone, plan: Plan, length: int, position: PromptPosition) -> TaskExamples:
    """The encoded examples of a plan: its few-shot draw, or all its training records up to the limit."""
    task, settings = plan.target.task, plan.settings
    if settings.shots is None:
        records = sample_records(task.name, plan.target.train, settings.limit)
    else:
        records = draw_shots(task, plan.target.train, settings.shots, draw=settings.draw, seed=settings.seed)
    # A few-shot run has no validation data to look at: k examples are all it may use, unless it is one of several
    # trials among which a benchmark chooses.
    held = [] if settings.shots is not None and not settings.judged else plan.target.validation
    return prepare(
        backbone,
        task,
        records,
        sample_records(task.name, held, settings.validation_records),
        prompt_length=length,
        position=position,
        reserve=settings.target_reserve,
        window=settings.window,
    )


def _free_bank(backbone: Backbone, plans: Sequence[Plan], length: int) -> tuple[DirectBank, dict[str, Tensor]]:
    """Prompt tuning: each row from its own start, by its seed."""
    rows = [prompt_bank(backbone, length, p.settings.initial, [p.settings.seed]).prompt.detach() for p in plans]
    bank = DirectBank(torch.cat(rows))
    return bank, prompt_rates(bank, torch.tensor([p.settings.loop.learning_rate for p in plans]))


def _mpt_bank(
    backbone: Backbone, metaprompt: Metaprompt, plans: Sequence[Plan], examples: Sequence[TaskExamples]
) -> tuple[DecomposedBank, dict[str, Tensor]]:
    mode = plans[0].settings.mode
    starts = [
        best_source(backbone, metaprompt, e) if p.settings.start == "best" and e.train else _named(p.settings.start)
        for p, e in zip(plans, examples, strict=True)
    ]
    bank = target_bank(metaprompt, starts, mode).to(backbone.device)
    shared = torch.tensor([p.settings.loop.learning_rate for p in plans])
    vectors = torch.tensor([p.settings.loop.vector_learning_rate for p in plans])
    rates = decomposed_rates(bank, shared if mode == "full" else shared[:1], vectors)
    return bank, rates if mode != "vectors" else {name: rates[name] for name in ("u", "v")}


def _named(start: str) -> str:
    """Zero shots have nothing to judge the best source by: the mean then."""
    return "mean" if start == "best" else start


def best_source(backbone: Backbone, metaprompt: Metaprompt, examples: TaskExamples, most: int = 32) -> str:
    """The source task whose prompt gives the target's training examples the lowest loss (as SPoT chooses)."""
    held = examples.train[:most]
    losses = {name: prompt_loss(backbone, held, metaprompt.prompt(name)) for name in metaprompt.names}
    return min(losses, key=lambda name: losses[name])


def _identity(
    backbone: Backbone, metaprompt: Metaprompt | None, plans: Sequence[Plan], examples: Sequence[TaskExamples]
) -> str:
    settings = []
    for plan in plans:
        described = plan.settings.model_dump(mode="json")
        described["loop"].pop("checkpoint_every")
        settings.append(described)
    parts = [[e.name, examples_digest(e.train), examples_digest(e.validation)] for e in examples]
    start = metaprompt.digest if metaprompt else "vocabulary"
    text = json.dumps([backbone.fingerprint, start, settings, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _task_files(
    backbone: Backbone,
    metaprompt: Metaprompt | None,
    plans: Sequence[Plan],
    examples: Sequence[TaskExamples],
    bank: DirectBank | DecomposedBank,
    position: PromptPosition,
    result: Fit,
) -> list[TaskPrompt]:
    files = []
    for row, (plan, seen) in enumerate(zip(plans, examples, strict=True)):
        loss = float(result.validation[row])
        card = Card(
            kind="task",
            library=__version__,
            backbone=backbone_note(backbone),
            position=position,
            tasks=(portable(plan.target.task),),
            method="mpt" if metaprompt else "pt",
            mode=plan.settings.mode if metaprompt else "",
            metaprompt=metaprompt.digest if metaprompt else "",
            answer_limit=(answer_limit(seen.train, plan.settings.target_reserve),),
            settings={
                **plan.settings.model_dump(mode="json"),
                "window": plan.settings.window or backbone.preset.window,
            },
            data=(data_note(plan.target, seen),),
            metrics={} if math.isnan(loss) else {"validation_loss": round(loss, 4)},
        )
        if metaprompt and isinstance(bank, DecomposedBank) and plan.settings.mode == "vectors":
            tensors = {"u": bank.u.detach()[row].cpu(), "v": bank.v.detach()[row].cpu()}
            files.append(TaskPrompt(tensors, card, metaprompt.shared))
        else:
            prompt = bank.compose(torch.tensor([row], device=backbone.device)).detach()[0].cpu()
            files.append(TaskPrompt({"prompt": prompt}, card))
    return files
