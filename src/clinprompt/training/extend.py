"""New source tasks for a metaprompt that is there already, without forgetting the old ones (our choice throughout).

Two ways. *Freeze*: P* and the old vectors stay as they are, and each new task learns its own u, v on that P*: nothing
of the old can change. *Replay*: P* and all vectors are trained on; part of every batch is old tasks' training data,
whose teachers are the parent's own prompts P* ∘ (u_k v_kᵀ), so that the student is held to what the parent says there
(self-distillation, as in learning without forgetting, arXiv 1606.09282, with MPT's losses). An old task whose data are
not at hand cannot be replayed; only freezing protects it.

Stages, folder, checkpoints and resuming are those of `clinprompt.training.learn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.methods.mpt import decomposed_rates, initial_vectors
from clinprompt.prompts.artifact import Card, Metaprompt, backbone_note, require_backbone, save_metaprompt
from clinprompt.prompts.bank import DecomposedBank, DirectBank
from clinprompt.training.batching import TaskExamples
from clinprompt.training.examples import answer_limit
from clinprompt.training.identity import digest_of, examples_digest
from clinprompt.training.learn import (
    SourceTask,
    StageProgress,
    claim_folder,
    data_note,
    distil_from,
    portable,
    run_identity,
    source_examples,
    stage_of,
    train_teachers,
)
from clinprompt.training.loop import Fit, Problem, fit, prompt_loss
from clinprompt.training.processes import Processes
from clinprompt.training.sampling import Pick, TaskSampler
from clinprompt.training.settings import ExtendSettings
from clinprompt.version import __version__


@dataclass
class Extended:
    """The new metaprompt (old tasks first), its training, and the validation loss per answer token of the old sources
    under the parent's (`before`) and the new metaprompt's (`after`) prompts, where their data are at hand."""

    metaprompt: Metaprompt
    fit: Fit
    before: dict[str, float]
    after: dict[str, float]
    examples: list[TaskExamples] = field(default_factory=list)  # of the new tasks


@dataclass(frozen=True)
class ReplaySampler:
    """`replayed` examples of each batch from the old tasks (the first ones), the others from the new: both drawn as in
    MPT's source stage, so that a few new tasks are not drowned by many old ones."""

    old: TaskSampler
    new: TaskSampler

    def step(self, step: int, active: Sequence[int]) -> list[Pick]:
        """The picks of one batch; row k is task k."""
        shift = len(self.old.sizes)
        new = [Pick(p.row + shift, p.task + shift, p.example) for p in self.new.step(step, active)]
        return self.old.step(step, active) + new


def extend(
    backbone: Backbone,
    parent: Metaprompt,
    old: Sequence[SourceTask],
    new: Sequence[SourceTask],
    settings: ExtendSettings,
    folder: Path,
    *,
    processes: Processes | None = None,
    progress: StageProgress | None = None,
) -> Extended:
    """Learn `new` source tasks on top of `parent` into `folder` (metaprompt.safetensors), a new file with a new digest.

    `old`: data of the parent's own tasks, as far as they are at hand; they are replayed (`keep: replay`, which needs
    all of them) and measured before and after. Raises TrainingError for a name that the parent has, for an old task
    with another definition or without data to replay, and for a folder of another run; BackboneError for another
    backbone.
    """
    processes = processes or Processes()
    require_backbone(parent.card, backbone, "metaprompt")
    settings = inherited(parent, settings)
    old = _in_order(parent, old)
    _check(parent, old, new, settings)
    length, position = len(parent.shared), parent.card.position
    known = [source_examples(backbone, source, settings, length, position) for source in old]
    fresh = [source_examples(backbone, source, settings, length, position) for source in new]
    run = _identity(backbone, parent, settings, [*known, *fresh])
    claim_folder(folder, run, settings, processes)
    bank, problem = _problem(backbone, parent, known, fresh, settings, folder, run, processes, progress)
    found = fit(
        backbone,
        problem,
        settings.source,
        checkpoint=folder / "source.checkpoint.safetensors",
        run=run,
        processes=processes,
        progress=stage_of(progress, "metaprompt"),
    )
    learned = Metaprompt(*_values(parent, bank, settings), _card(backbone, parent, known, new, fresh, settings))
    before, after = ({e.name: _loss(backbone, m, e) for e in known if e.validation} for m in (parent, learned))
    losses = {e.name: _loss(backbone, learned, e) for e in fresh if e.validation}
    metaprompt = with_metrics(learned, _metrics(parent, settings, before, after, losses))
    if processes.main:
        metaprompt = save_metaprompt(metaprompt, folder / "metaprompt.safetensors")
    processes.wait()
    return Extended(metaprompt, found, before, after, fresh)


def inherited(parent: Metaprompt, settings: ExtendSettings) -> ExtendSettings:
    """Settings whose prompt shape and windows are the parent's: its old prompts were learned with those."""
    has = parent.card.settings
    return settings.model_copy(
        update={
            "prompt_length": parent.shared.shape[0],
            "rank": parent.u.shape[2],
            "prompt_position": parent.card.position,
            "target_reserve": has.get("target_reserve", settings.target_reserve),
            "window": has.get("window", settings.window),
        }
    )


def _in_order(parent: Metaprompt, old: Sequence[SourceTask]) -> list[SourceTask]:
    """The old tasks in the parent's order. Raises TrainingError for tasks it does not have."""
    for source in old:
        if source.task.name not in parent.names:
            raise TrainingError(f"{source.task.name!r} is given as an old task, but the metaprompt does not have it.")
    return sorted(old, key=lambda source: parent.row(source.task.name))


def _check(parent: Metaprompt, old: Sequence[SourceTask], new: Sequence[SourceTask], settings: ExtendSettings) -> None:
    names = [source.task.name for source in new]
    if not names:
        raise TrainingError("no new task: name the tasks that the metaprompt is to be extended by.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TrainingError(f"new tasks must have different names; repeated: {', '.join(repeated)}.")
    taken = sorted(set(names) & set(parent.names))
    if taken:
        raise TrainingError(
            f"the metaprompt has tasks of these names already: {', '.join(taken)}. Rename the new ones in their YAML, "
            "or learn the metaprompt again to replace the old ones."
        )
    for source in old:
        was, now = parent.card.tasks[parent.row(source.task.name)], source.task
        if (was.type, was.labels, was.instruction) != (now.type, now.labels, now.instruction):
            raise TrainingError(
                f"old task {was.name!r}: its type, labels or instruction are not those it was learned with. Name the "
                "task file it was learned from, or learn the metaprompt again."
            )
    missing = sorted(set(parent.names) - {source.task.name for source in old})
    if settings.keep == "replay" and missing:
        raise TrainingError(
            f"keep: replay needs the training data of every old task; not at hand: {', '.join(missing)}. Their prompts "
            "would change with P* and nothing would hold them. Give their data, or keep: freeze, which protects them "
            "by changing no number of theirs."
        )


def _identity(backbone: Backbone, parent: Metaprompt, settings: ExtendSettings, examples: list[TaskExamples]) -> str:
    return digest_of([run_identity(backbone, settings, examples), parent.digest])


def _problem(
    backbone: Backbone,
    parent: Metaprompt,
    known: Sequence[TaskExamples],
    fresh: Sequence[TaskExamples],
    settings: ExtendSettings,
    folder: Path,
    run: str,
    processes: Processes,
    progress: StageProgress | None,
) -> tuple[DecomposedBank, Problem]:
    """The bank (rows of all tasks to replay, of the new ones only to freeze) and what it is trained on."""
    length = len(parent.shared)
    teachers, _ = train_teachers(backbone, fresh, settings, length, folder, run, processes, progress)
    u, v = (t.expand(len(fresh), -1, -1) for t in initial_vectors(parent, "mean"))
    tasks = list(fresh)
    if settings.keep == "replay":
        u, v, tasks = torch.cat([parent.u, u]), torch.cat([parent.v, v]), [*known, *fresh]
        said = torch.stack([parent.prompt(name) for name in parent.names])
        teachers = DirectBank(torch.cat([said.to(teachers.prompt.device), teachers.prompt.detach()]))
    bank = DecomposedBank(parent.shared[None], u, v, [0] * len(tasks), train_shared=settings.keep == "replay")
    bank.to(backbone.device)
    problem = Problem(
        bank=bank,
        tasks=tasks,
        sampler=_sampler(known, fresh, settings),
        rates=decomposed_rates(bank, settings.source.learning_rate, settings.source.vector_learning_rate),
        row_tasks=list(range(len(tasks))),
        normalise="batch",
        select="bank",
        distillation=distil_from(backbone, teachers, tasks, settings, folder, run, processes, progress),
    )
    return bank, problem


def _sampler(
    known: Sequence[TaskExamples], fresh: Sequence[TaskExamples], settings: ExtendSettings
) -> TaskSampler | ReplaySampler:
    batch = settings.source.batch_size
    replayed = min(batch - 1, max(1, round(settings.replay * batch))) if settings.keep == "replay" else 0

    def over(tasks: Sequence[TaskExamples], size: int) -> TaskSampler:
        sizes = [len(e.train) for e in tasks]
        names = [e.name for e in tasks]
        return TaskSampler(names, sizes, size, settings.seed, settings.most_tasks, settings.stochastic)

    if settings.keep == "freeze":
        return over(fresh, batch)
    if batch < 2:
        raise TrainingError("keep: replay needs batches of two or more: one example of the old tasks, one of the new.")
    return ReplaySampler(over(known, replayed), over(fresh, batch - replayed))


def _values(parent: Metaprompt, bank: DecomposedBank, settings: ExtendSettings) -> tuple[Tensor, Tensor, Tensor]:
    shared, u, v = (bank.values()[name].cpu() for name in ("shared", "u", "v"))
    if settings.keep == "replay":
        return shared[0], u, v
    return parent.shared, torch.cat([parent.u, u]), torch.cat([parent.v, v])


def _loss(backbone: Backbone, metaprompt: Metaprompt, examples: TaskExamples) -> float:
    return prompt_loss(backbone, examples.validation, metaprompt.prompt(examples.name))


def _metrics(
    parent: Metaprompt,
    settings: ExtendSettings,
    before: Mapping[str, float],
    after: Mapping[str, float],
    losses: Mapping[str, float],
) -> dict[str, Any]:
    # Scores of the parent are the parent's; of its losses those stay that are still true.
    kept = parent.card.metrics.get("validation_loss", {}) if settings.keep == "freeze" else {}
    measured = {name: round(loss, 4) for name, loss in {**after, **losses}.items()}
    old = {name: {"before": round(before[name], 4), "after": round(after[name], 4)} for name in before}
    return {
        "validation_loss": {**kept, **measured},
        "extension": {"keep": settings.keep, "old_validation_loss": old},
    }


def with_metrics(metaprompt: Metaprompt, metrics: dict[str, Any]) -> Metaprompt:
    """The metaprompt with these metrics in its card, in place of those it had."""
    card = metaprompt.card.model_copy(update={"metrics": metrics})
    return Metaprompt(metaprompt.shared, metaprompt.u, metaprompt.v, card)


def _card(
    backbone: Backbone,
    parent: Metaprompt,
    known: Sequence[TaskExamples],
    new: Sequence[SourceTask],
    fresh: Sequence[TaskExamples],
    settings: ExtendSettings,
) -> Card:
    limits = parent.card.answer_limit or (settings.target_reserve,) * len(parent.names)
    described = settings.model_dump(mode="json")
    if settings.keep == "replay":
        described["replayed"] = {e.name: examples_digest(e.train) for e in known}
    return Card(
        kind="metaprompt",
        library=__version__,
        backbone=backbone_note(backbone),
        position=parent.card.position,
        tasks=(*parent.card.tasks, *(portable(source.task) for source in new)),
        method=parent.card.method,
        parent=parent.digest,
        answer_limit=(*limits, *(answer_limit(e.train, settings.target_reserve) for e in fresh)),
        settings=described,
        data=(*parent.card.data, *(data_note(s, e) for s, e in zip(new, fresh, strict=True))),
    )
