"""Learning a metaprompt: teachers of all source tasks → what they say → one decomposed student (MPT, §3.2).

The three stages keep their state in the run's folder. A stage that is done is read back, a stage that was interrupted
continues from its checkpoint, and on CPU the result is bit-identical to a run that was never interrupted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TrainingError
from clinprompt.methods.generated import GeneratedBank, generated_bank, generated_rates
from clinprompt.methods.mpt import decomposed_rates, source_bank, start_of_shared
from clinprompt.methods.pt import prompt_rates
from clinprompt.methods.spot import undistilled
from clinprompt.prompts.artifact import Card, DataNote, Metaprompt, backbone_note, save_metaprompt
from clinprompt.prompts.bank import DecomposedBank, DirectBank
from clinprompt.prompts.files import read_file, write_atomically
from clinprompt.prompts.initialisation import initial_prompts
from clinprompt.records import Record
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.batching import TaskExamples
from clinprompt.training.distillation import Distillation, teacher_states
from clinprompt.training.examples import answer_limit, prepare, sample_records
from clinprompt.training.identity import examples_digest, run_name, task_digests
from clinprompt.training.loop import Fit, Problem, fit
from clinprompt.training.processes import Processes
from clinprompt.training.sampling import RowSampler, TaskSampler
from clinprompt.training.settings import LearnSettings, LoopSettings
from clinprompt.training.starts import first_prompts
from clinprompt.version import __version__

StageProgress = Callable[[str, int, int, float], None]  # stage, done, total, loss (NaN where there is none)


@dataclass(frozen=True)
class SourceTask:
    """A task with the records it is learned from, and what must be told about them."""

    task: TaskDefinition
    train: Sequence[Record]
    validation: Sequence[Record] = ()
    licence: str = ""
    permissive: bool | None = None


@dataclass
class Learned:
    """The metaprompt, the teachers it was distilled from (T, l, d), and both stages' losses."""

    metaprompt: Metaprompt
    teachers: DirectBank
    teacher_fit: Fit
    source_fit: Fit
    examples: list[TaskExamples] = field(default_factory=list)


def learn(
    backbone: Backbone,
    sources: Sequence[SourceTask],
    settings: LearnSettings,
    folder: Path,
    *,
    teachers_folder: Path | None = None,
    processes: Processes | None = None,
    progress: StageProgress | None = None,
) -> Learned:
    """Learn a metaprompt from source tasks into `folder` (teachers, states, checkpoints, metaprompt.safetensors).

    With `teachers_folder` teachers and their states lie there and are shared by every run that would train the same
    ones (`teachers_identity`), whatever its source stage. Raises TrainingError for fewer than two sources, repeated
    names, or a folder that holds another run.
    """
    require_sources(sources)
    processes = processes or Processes()
    settings = settings.model_copy(update={"window": settings.window or backbone.preset.window})
    length, position = prompt_shape(backbone, settings)
    examples = [source_examples(backbone, source, settings, length, position) for source in sources]
    run = run_identity(backbone, settings, examples)
    claim_folder(folder, run, settings, processes)
    home, of_teachers, of_states = folder, run, run
    if teachers_folder is not None:
        home, of_teachers = teachers_folder, teachers_identity(backbone, settings, examples)
        of_states = f"{of_teachers}.{'.'.join(map(str, settings.layers))}"
    teachers, teacher_fit = train_teachers(backbone, examples, settings, length, home, of_teachers, processes, progress)
    if settings.students:
        distillation = distil_from(backbone, teachers, examples, settings, home, of_states, processes, progress)
        checkpoint = folder / "source.checkpoint.safetensors"
        (shared, u, v), source_fit = train_students(
            backbone, examples, settings, teachers, distillation, checkpoint, run, processes, progress
        )
    else:
        (shared, u, v), source_fit = undistilled(teachers.prompt.detach().cpu()), teacher_fit
    method = "mpt" if settings.students else "spot"
    card = trained_card("metaprompt", method, backbone, sources, examples, settings, position, source_fit)
    metaprompt = Metaprompt(shared, u, v, card)
    if processes.main:
        metaprompt = save_metaprompt(metaprompt, folder / "metaprompt.safetensors")
    processes.wait()
    return Learned(metaprompt, teachers, teacher_fit, source_fit, examples)


def train_students(
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    settings: LearnSettings,
    teachers: DirectBank,
    distillation: Distillation | None,
    checkpoint: Path,
    run: str,
    processes: Processes,
    progress: StageProgress | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Fit]:
    """The source stage: P* (l, d) and all task vectors u (T, l, r), v (T, d, r), from the teachers and the data."""
    length = teachers.prompt.shape[1]
    first = initial_prompts(backbone, length, settings.initial, [settings.seed])[0].to(backbone.device)
    start = start_of_shared(teachers, first, settings.start)
    bank = metaprompt_bank(start, len(examples), settings)
    problem = Problem(
        bank=bank,
        tasks=examples,
        sampler=TaskSampler(
            [e.name for e in examples],
            [len(e.train) for e in examples],
            settings.source.batch_size,
            settings.seed,
            settings.most_tasks,
            settings.stochastic,
        ),
        rates=metaprompt_rates(bank, settings.source),
        row_tasks=list(range(len(examples))),
        normalise="batch",
        select="bank",
        distillation=distillation,
    )
    source_fit = fit(
        backbone,
        problem,
        settings.source,
        checkpoint=checkpoint,
        run=run,
        processes=processes,
        progress=stage_of(progress, "metaprompt"),
    )
    return (folded(bank), bank.u.detach().cpu(), bank.v.detach().cpu()), source_fit


def metaprompt_bank(start: Tensor, tasks: int, settings: LearnSettings) -> DecomposedBank | GeneratedBank:
    """P* at `start` (l, d) with unit vectors of so many tasks; with an architecture a network produces P*."""
    shape: dict[str, Any] = {"rank": settings.rank, "noise": settings.noise, "seed": settings.seed}
    shape["decomposition"] = settings.decomposition
    if settings.architecture is None:
        return source_bank(start, tasks, **shape)
    return generated_bank(start, tasks, settings.architecture, **shape)


def metaprompt_rates(bank: DecomposedBank | GeneratedBank, loop: LoopSettings) -> dict[str, Tensor]:
    """Learning rates of P*, or of what produces it, and of the task vectors."""
    if isinstance(bank, GeneratedBank):
        return generated_rates(bank, loop.learning_rate, loop.vector_learning_rate)
    return decomposed_rates(bank, loop.learning_rate, loop.vector_learning_rate)


def folded(bank: DecomposedBank | GeneratedBank) -> Tensor:
    """P* (l, d) on the CPU as a file holds it: whatever produced it has done its work."""
    shared = bank.generated() if isinstance(bank, GeneratedBank) else bank.shared[0]
    return shared.detach().cpu()


def prompt_shape(backbone: Backbone, settings: LearnSettings) -> tuple[int, PromptPosition]:
    """Prompt length and position: the settings', else the backbone preset's."""
    length = settings.prompt_length or backbone.preset.prompt_length
    return length, settings.prompt_position or backbone.preset.prompt_position


def run_identity(backbone: Backbone, settings: LearnSettings, examples: Sequence[TaskExamples]) -> str:
    """Hash of everything that decides the result; how often checkpoints are written does not."""
    return _identity_of(backbone, settings.model_dump(mode="json"), examples)


SOURCE_STAGE = frozenset(
    (
        *("rank", "source", "weight_logits", "weight_hidden", "temperature", "layers"),
        *("stochastic", "most_tasks", "decomposition", "start", "noise", "architecture", "students"),
    )
)
"""Fields of LearnSettings that teachers do not depend on."""


def teachers_identity(backbone: Backbone, settings: LearnSettings, examples: Sequence[TaskExamples]) -> str:
    """Hash of everything that decides the teachers: what remains of `run_identity` without the source stage."""
    return _identity_of(backbone, settings.model_dump(mode="json", exclude=set(SOURCE_STAGE)), examples)


def _identity_of(backbone: Backbone, described: dict[str, Any], examples: Sequence[TaskExamples]) -> str:
    for stage in ("teacher", "source"):
        described.get(stage, {}).pop("checkpoint_every", None)
    return run_name(backbone, [described, task_digests(examples)])


def require_sources(sources: Sequence[SourceTask]) -> None:
    """Raises TrainingError unless these are two tasks or more, of different names."""
    names = [source.task.name for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TrainingError(f"source tasks must have different names; repeated: {', '.join(repeated)}")
    if len(names) < 2:
        raise TrainingError("a metaprompt is learned from at least two source tasks; use `adapt` to learn one task")


class ExampleLimits(Protocol):
    """What the settings of a training say about its examples: LearnSettings, MultitaskSettings."""

    @property
    def limit(self) -> int: ...
    @property
    def validation_records(self) -> int: ...
    @property
    def target_reserve(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def source_examples(
    backbone: Backbone, source: SourceTask, settings: ExampleLimits, length: int, position: PromptPosition
) -> TaskExamples:
    """The encoded examples of a source task, sampled by hash up to the settings' limits."""
    name = source.task.name
    return prepare(
        backbone,
        source.task,
        sample_records(name, source.train, settings.limit),
        sample_records(name, source.validation, settings.validation_records),
        prompt_length=length,
        position=position,
        reserve=settings.target_reserve,
        window=settings.window,
        limit=settings.limit,
    )


def claim_folder(folder: Path, run: str, settings: BaseModel, processes: Processes) -> None:
    """Write the run's configuration, or refuse a folder that belongs to another run."""
    note = folder / "run.json"
    if note.is_file():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["run"] != run:
            raise TrainingError(
                f"{folder}: holds a run with other settings, data, backbone or precision. Use the settings in "
                f"{note.name}, another --out, or delete the folder to start again."
            )
    elif processes.main:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"run": run, "settings": settings.model_dump(mode="json")}, indent=1)
        partial = note.with_suffix(".tmp")
        partial.write_text(text, encoding="utf-8")
        partial.replace(note)
    processes.wait()


def train_teachers(
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    settings: LearnSettings,
    length: int,
    folder: Path,
    run: str,
    processes: Processes,
    progress: StageProgress | None,
) -> tuple[DirectBank, Fit]:
    """All teachers as rows of one bank, each on its own task."""
    rows = list(range(len(examples)))
    initials, seeds = [settings.initial for _ in rows], [settings.seed for _ in rows]
    bank = DirectBank(first_prompts(backbone, length, initials, seeds, [e.train for e in examples]))
    problem = Problem(
        bank=bank,
        tasks=examples,
        sampler=RowSampler(
            rows,
            [len(e.train) for e in examples],
            [f"teacher {e.name}" for e in examples],
            [settings.seed] * len(rows),
            settings.teacher.batch_size,
        ),
        rates=prompt_rates(bank, settings.teacher.learning_rate),
        row_tasks=rows,
    )
    result = fit(
        backbone,
        problem,
        settings.teacher,
        checkpoint=folder / "teachers.checkpoint.safetensors",
        run=run,
        processes=processes,
        progress=stage_of(progress, "teachers"),
    )
    lost = [e.name for e, loss in zip(examples, result.validation.tolist(), strict=True) if loss == math.inf]
    if lost:
        raise TrainingError(
            f"teacher of {', '.join(lost)}: the loss is not a number, so there is nothing to learn from. Lower "
            f"teacher.learning_rate (now {settings.teacher.learning_rate:g}) or use float32."
        )
    if processes.main:
        names = [e.name for e in examples]
        write_atomically(bank.values(), {"run": run, "tasks": names}, folder / "teachers.safetensors")
    processes.wait()
    return bank, result


def load_teachers(folder: Path) -> tuple[list[str], torch.Tensor]:
    """Names and prompts (T, l, d) of the teachers of a finished `learn`."""
    tensors, metadata = read_file(folder / "teachers.safetensors")
    return list(metadata["tasks"]), tensors["prompt"]


def distil_from(
    backbone: Backbone,
    teachers: DirectBank,
    examples: Sequence[TaskExamples],
    settings: LearnSettings,
    folder: Path,
    run: str,
    processes: Processes,
    progress: StageProgress | None,
) -> Distillation | None:
    """The teachers' states for every training example; None when both loss weights are zero (the ablation)."""
    if not settings.weight_logits and not settings.weight_hidden:
        return None
    states = teacher_states(
        backbone,
        teachers,
        examples,
        settings.layers,
        # Processes that share one backbone must compute, or not compute, the same tasks.
        folder=folder / "teacher-states" if processes.main or processes.sharded else None,
        writes=processes.main,
        run=run,
        micro_tokens=settings.source.micro_tokens,
        progress=(lambda done, total: progress("teacher states", done, total, float("nan"))) if progress else None,
    )
    return Distillation(
        states, settings.weight_logits, settings.weight_hidden, settings.temperature, tuple(settings.layers)
    )


def stage_of(progress: StageProgress | None, name: str) -> Callable[[int, int, float], None] | None:
    return (lambda done, total, loss: progress(name, done, total, loss)) if progress else None


def trained_card(
    kind: Literal["metaprompt", "multitask"],
    method: str,
    backbone: Backbone,
    sources: Sequence[SourceTask],
    examples: Sequence[TaskExamples],
    settings: ExampleLimits,
    position: PromptPosition,
    result: Fit,
    *,
    adapter: dict[str, Any] | None = None,
) -> Card:
    """The card of what several tasks were trained into: a metaprompt, or one adapter for all of them."""
    losses = zip(examples, result.validation.tolist(), strict=True)
    validation = {e.name: round(loss, 4) for e, loss in losses if math.isfinite(loss)}
    return Card(
        kind=kind,
        library=__version__,
        backbone=backbone_note(backbone),
        position=position,
        tasks=tuple(portable(source.task) for source in sources),
        method=method,
        adapter=adapter or {},
        answer_limit=tuple(answer_limit(e.train, settings.target_reserve) for e in examples),
        settings=settings.model_dump(mode="json"),
        data=tuple(data_note(s, e) for s, e in zip(sources, examples, strict=True)),
        metrics={"validation_loss": validation} if validation else {},
    )


def portable(task: TaskDefinition) -> TaskDefinition:
    """The definition without the paths of the machine it was read on."""
    return task.model_copy(update={"files": {}, "columns": {}, "reader": {}, "format": None})


def data_note(source: SourceTask, examples: TaskExamples) -> DataNote:
    """What of this task was seen."""
    return DataNote(
        task=source.task.name,
        licence=source.licence or source.task.licence,
        permissive=source.permissive,
        records=len(source.train),
        examples=len(examples.train),
        digest=examples_digest(examples.train),
    )
