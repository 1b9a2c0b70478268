"""The verbs of the command line as plain functions: learn, adapt, evaluate, predict, inspect.

Names stand for things wherever that is unambiguous: a backbone may be given by name, a task by catalog id or YAML
path, an artifact by path. `embedded` as a metaprompt is the one that ships with the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel

from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.backbone.presets import BackbonePreset
from clinprompt.errors import ArtifactError, TaskError, TrainingError
from clinprompt.evaluation.answerer import Answerer, of_source, of_task, one_answer, zero_shot
from clinprompt.evaluation.evaluate import Evaluation, evaluate_records
from clinprompt.evaluation.inputs import read_inputs
from clinprompt.methods.registry import METHODS, MethodSpec, find_multitask
from clinprompt.prompts.artifact import (
    ADAPTERS,
    Metaprompt,
    TaskPrompt,
    artifact_kind,
    load_metaprompt,
    packaged_metaprompt,
    require_files,
    save_metaprompt,
    save_task,
)
from clinprompt.prompts.artifact import load_task as load_task_file
from clinprompt.prompts.files import require_folder
from clinprompt.prompts.multitask import MultitaskAdapter, load_multitask, save_multitask
from clinprompt.records import Record
from clinprompt.suites import TaskData
from clinprompt.task_lookup import is_permissive, load_suite, load_task
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training import adapt as adapting
from clinprompt.training import learn as learning
from clinprompt.training.multitask import MultitaskSettings
from clinprompt.training.processes import Processes
from clinprompt.training.settings import AdaptSettings, LearnSettings, load_settings

EMBEDDED = "embedded"
ZERO_SHOT = "zero-shot"
CONSTANT = "constant"
UNTRAINED = (ZERO_SHOT, CONSTANT)
"""What `evaluate` takes instead of a file."""
TaskLike = str | Path | TaskData
Artifact = Metaprompt | TaskPrompt | MultitaskAdapter
ArtifactLike = str | Path | Artifact
S = TypeVar("S", bound=BaseModel)

# --- learn and adapt --------------------------------------------------------------------------------------------------


def learn(
    suite: str | Path | Sequence[TaskData],
    out: str | Path,
    *,
    backbone: str | Path | Backbone = EMBEDDED,
    data_dir: str | Path | None = None,
    settings: LearnSettings | None = None,
    processes: Processes | None = None,
    progress: learning.StageProgress | None = None,
) -> learning.Learned:
    """Learn a metaprompt from the source tasks of a suite into the folder `out` (``metaprompt.safetensors``).

    The same call continues an interrupted run. Raises TrainingError for fewer than two sources or a folder that holds
    another run.
    """
    model = as_backbone(backbone)
    chosen = settings or settings_for(LearnSettings, model.preset)
    sources = source_tasks(suite, data_dir)
    return learning.learn(model, sources, chosen, Path(out), processes=processes, progress=progress)


def source_tasks(
    suite: str | Path | Sequence[TaskData], data_dir: str | Path | None = None
) -> list[learning.SourceTask]:
    """The source tasks of a suite, or all the tasks given, as `learn` reads them."""
    if isinstance(suite, str | Path):
        found = load_suite(suite, data_dir, roles=("source",), splits=("train", "validation"))
        if not found:
            raise TaskError(f"suite {suite}: lists no `sources`, and a metaprompt is learned from sources.")
    else:
        found = list(suite)
    return [source_task(data) for data in found]


def source_task(data: TaskData) -> learning.SourceTask:
    """A task's data as training reads it. Raises TaskError if it has no training records."""
    if not data.splits["train"]:
        raise TaskError(f"task {data.task.name}: no training records. {_why_empty(data)}")
    return learning.SourceTask(
        data.task, data.splits["train"], data.splits["validation"], data.licence, is_permissive(data)
    )


def _why_empty(data: TaskData) -> str:
    named = data.task.files.get("train")
    if named is None:
        return "Name `train` under `files`."
    files = named if isinstance(named, str) else ", ".join(named)
    if data.splits["validation"] and "validation" not in data.task.files:
        return f"All of {files} was set aside for validation: give more records, or name `validation` under `files`."
    return f"Empty, or a header and nothing else: {files}."


def adapt(
    metaprompt: str | Path | Metaprompt | None,
    task: TaskLike,
    *,
    out: str | Path | None = None,
    shots: int | None = None,
    backbone: str | Path | Backbone | None = None,
    data_dir: str | Path | None = None,
    settings: AdaptSettings | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> TaskPrompt:
    """Adapt to one task by ``settings.method``: by default MPT from a metaprompt (``"embedded"`` or a path), or plain
    prompt tuning with None.

    `shots` replaces the settings' number of training examples. With `out` the task file is written there.
    """
    source = load_artifact_as(metaprompt, "metaprompt") if isinstance(metaprompt, str | Path) else metaprompt
    model = as_backbone(backbone or (source.card.backbone.name if source else EMBEDDED))
    chosen = settings or settings_for(AdaptSettings, model.preset)
    if shots is not None:
        chosen = chosen.model_copy(update={"shots": shots})
    data = load_task(task, data_dir, splits=("train", "validation")) if isinstance(task, str | Path) else task
    result = adapt_all(source, [data], backbone=model, settings=chosen, progress=progress)
    file = result.tasks[0]
    return write_task(file, Path(out), metaprompt) if out is not None else file


def adapt_all(
    metaprompt: Metaprompt | None,
    tasks: Sequence[TaskData],
    *,
    backbone: Backbone,
    settings: AdaptSettings,
    prompt_length: int | None = None,
    checkpoint: Path | None = None,
    processes: Processes | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> adapting.Adapted:
    """Adapt to several tasks as rows of one training; with mode ``group`` they share one P*."""
    plans = [adapting.Plan(source_task(data), settings) for data in tasks]
    return adapting.adapt(
        backbone,
        metaprompt,
        plans,
        prompt_length=prompt_length,
        checkpoint=checkpoint,
        processes=processes,
        progress=progress,
    )


def write_task(file: TaskPrompt, out: Path, metaprompt: str | Path | Metaprompt | None = None) -> TaskPrompt:
    """Write a task file. One that holds vectors only remembers where its metaprompt lies, relative to itself."""
    if "u" in file.tensors and isinstance(metaprompt, str | Path) and str(metaprompt) != EMBEDDED:
        hint = os.path.relpath(metaprompt_path(metaprompt), out.parent or ".")
        card = file.card.model_copy(update={"metaprompt_path": hint})
        file = TaskPrompt(file.tensors, card, file.shared)
    return save_task(file, out)


# --- use --------------------------------------------------------------------------------------------------------------


def evaluate(
    file: ArtifactLike,
    task: TaskLike | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    source: str | None = None,
    backbone: str | Path | Backbone | None = None,
    data_dir: str | Path | None = None,
    metaprompts: Sequence[Path] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a task file (or task `source` of a metaprompt or multi-task adapter; or ``"zero-shot"``, the bare
    instruction; or ``"constant"``, the one answer that is best on the training records) on a split.

    Without `task` the file's own task is meant: its name must be a catalog id or a synthetic task's.
    """
    artifact = None if file in UNTRAINED else load_artifact(file, metaprompts)
    named = task if task is not None else own_task(artifact, source)
    splits = tuple({split, "train"}) if file == CONSTANT else (split,)
    data = load_task(named, data_dir, splits=splits) if isinstance(named, str | Path) else named
    model = as_backbone(backbone or backbone_of(artifact))
    if file == CONSTANT:
        constant = one_answer(model, data.task, data.splits["train"])
        return evaluate_records(constant, data.splits[split], split=split, limit=limit, seed=seed)
    who = answerer(model, artifact, source=source, task=data.task)
    return evaluate_records(who, data.splits[split], split=split, limit=limit, seed=seed, progress=progress)


def predict(
    file: ArtifactLike,
    inputs: Iterable[str | Record | Path],
    *,
    source: str | None = None,
    backbone: str | Path | Backbone | None = None,
    metaprompts: Sequence[Path] = (),
) -> list[Prediction]:
    """Predictions for texts, records, or paths of files and folders (see `clinprompt.evaluation.inputs`)."""
    artifact = load_artifact(file, metaprompts)
    who = answerer(as_backbone(backbone or backbone_of(artifact)), artifact, source=source)
    records: list[Record] = []
    for number, item in enumerate(inputs, start=1):
        if isinstance(item, Path):
            records += read_inputs(who.task, [item])
        else:
            records.append(item if isinstance(item, Record) else Record(str(number), item))
    return who.answers(records)


def inspect(
    file: str | Path, *, backbone: str | Path | Backbone | None = None, neighbours: int = 5, source: str | None = None
) -> dict[str, Any]:
    """What a prompt file is, as JSON-ready data: its card, and per position norms and nearest vocabulary tokens."""
    from clinprompt.portrait import portrait

    path = artifact_path(file)
    artifact = load_artifact(path)
    return portrait(path, artifact, as_backbone(backbone or backbone_of(artifact)), neighbours, source)


def answerer(
    backbone: Backbone,
    artifact: Artifact | None,
    *,
    source: str | None = None,
    task: TaskDefinition | None = None,
) -> Answerer:
    """What answers: a task file, the task `source` of a metaprompt or a multi-task adapter, or (None) the bare
    instruction of `task`.

    Raises TaskError when the artifact answers another type of task, ArtifactError for several tasks and no `source`.
    """
    require_several(artifact, source)
    if artifact is None:
        if task is None:
            raise TaskError("zero-shot (or constant) needs a task: give a catalog id or the path of a task YAML.")
        return zero_shot(backbone, task)
    if isinstance(artifact, TaskPrompt):
        own, found = artifact.task, of_task(backbone, artifact, task)
    else:
        own = own_definition(artifact, source)
        if isinstance(artifact, Metaprompt):
            found = of_source(backbone, artifact, own.name, task)
        else:
            found = of_task(backbone, artifact.of(own.name), task)
    if task is not None and task.type != own.type:
        raise TaskError(f"{task.name!r} is a {task.type} task, but this prompt is one for {own.type} ({own.name}).")
    return found


def own_task(artifact: Artifact | None, source: str | None) -> str:
    """The name of the task that an artifact answers."""
    return own_definition(artifact, source).name


def own_definition(artifact: Artifact | None, source: str | None) -> TaskDefinition:
    """The task that an artifact answers: a task file's own, or the one named `source` of several."""
    require_several(artifact, source)
    if artifact is None:
        raise TaskError("zero-shot (or constant) needs a task: give a catalog id or the path of a task YAML.")
    if isinstance(artifact, TaskPrompt):
        return artifact.task
    if source is None:
        raise ArtifactError(
            f"{_kind(artifact)} holds several tasks; name one with --task: {', '.join(artifact.names)}."
        )
    return artifact.card.tasks[artifact.row(source)]


def require_several(artifact: Artifact | None, source: str | None) -> None:
    """Raises ArtifactError where `source` names one of several tasks and there are not several."""
    if source is None or not (artifact is None or isinstance(artifact, TaskPrompt)):
        return
    what = "zero-shot uses no file" if artifact is None else f"this is the file of one task, {artifact.task.name!r}"
    raise ArtifactError(
        f"--task (or --source) {source}: it names a task inside a metaprompt or a multi-task adapter, and {what}: "
        "leave it out. What to score on is named without an option: clinprompt evaluate FILE TASK."
    )


def _kind(artifact: Metaprompt | MultitaskAdapter) -> str:
    return "a metaprompt" if isinstance(artifact, Metaprompt) else "a multi-task adapter"


# --- names into things ------------------------------------------------------------------------------------------------


def as_backbone(backbone: str | Path | Backbone) -> Backbone:
    """A backbone, loaded if only its name is given."""
    return backbone if isinstance(backbone, Backbone) else load_backbone(backbone)


def backbone_of(artifact: Artifact | None) -> str:
    """The name of the backbone an artifact was made on; the embedded one for none."""
    return artifact.card.backbone.name if artifact else EMBEDDED


def artifact_path(name: str | Path) -> Path:
    """A path; ``embedded`` is the packaged metaprompt."""
    if str(name) != EMBEDDED:
        return Path(name)
    path = packaged_metaprompt()
    if not path.is_file():
        raise ArtifactError(
            "this installation holds no metaprompt of its own. Learn one with `clinprompt learn SUITE --out DIR` and "
            "give DIR/metaprompt.safetensors."
        )
    return path


def load_artifact(file: ArtifactLike, metaprompts: Sequence[Path] = ()) -> Artifact:
    """A metaprompt, task file or multi-task adapter by path; what is loaded already is returned as it is."""
    if not isinstance(file, str | Path):
        return file
    path = artifact_path(file)
    require_files(metaprompts)
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder. Name the .safetensors file in it.")
    kind = artifact_kind(path)
    if kind == "multitask":
        return load_multitask(path)
    return load_metaprompt(path) if kind == "metaprompt" else load_task_file(path, list(metaprompts))


def load_artifact_as(file: str | Path, kind: Literal["metaprompt"]) -> Metaprompt:
    """A metaprompt by path or ``embedded``. Raises ArtifactError for a task file."""
    return load_metaprompt(metaprompt_path(file))


def metaprompt_path(file: str | Path) -> Path:
    """The file of a metaprompt: a path, ``embedded``, or the folder that `learn` wrote it into. Raises ArtifactError
    for a folder without one."""
    path = artifact_path(file)
    if not path.is_dir():
        return path
    if not (path / "metaprompt.safetensors").is_file():
        raise ArtifactError(f"{path}: is a folder without metaprompt.safetensors. Name the metaprompt's file.")
    return path / "metaprompt.safetensors"


def with_metrics(artifact: Artifact, path: Path, found: Evaluation, source: str | None) -> None:
    """Write an evaluation into the card of a file, under its split (and source task)."""
    entry = {"n": found.n, "metrics": found.summary()["metrics"]}
    metrics = dict(artifact.card.metrics)
    if isinstance(artifact, TaskPrompt):
        metrics[found.split] = {**entry, "task": found.task.name}
        save_task(TaskPrompt(artifact.tensors, artifact.card.model_copy(update={"metrics": metrics})), path)
        return
    metrics[found.split] = {**metrics.get(found.split, {}), str(source): entry}
    card = artifact.card.model_copy(update={"metrics": metrics})
    if isinstance(artifact, MultitaskAdapter):
        save_multitask(MultitaskAdapter(artifact.tensors, card), path)
        return
    save_metaprompt(Metaprompt(artifact.shared, artifact.u, artifact.v, card), path)


# --- settings ---------------------------------------------------------------------------------------------------------


def settings_for(
    kind: type[S], preset: BackbonePreset, config: Path | None = None, overrides: dict[str, Any] | None = None
) -> S:
    """Settings from, weakest first: the defaults, learning rates, a YAML file, overrides.

    The rates are the backbone preset's; for LoRA, prefix and all weights, where it has none, the first of the method's
    tuning grid. MPT is `mpt+` where neither `mode` nor `factors` is named: mode frozen, with positions of the task's
    own (docs/results.md).
    """
    load_settings(kind, config)  # errors name the file
    named = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config else {}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    for section in ("loop",) if kind is AdaptSettings else ("teacher", "source"):
        for rate in ("learning_rate", "vector_learning_rate"):
            if rate not in (named.get(section) or {}):
                given.setdefault(f"{section}.{rate}", getattr(preset, rate))
    method = given.get("method", named.get("method"))
    if kind is AdaptSettings and method in (None, "mpt") and "factors" not in named:
        given.setdefault("mode", named.get("mode", "frozen"))
    if kind is AdaptSettings and method in ADAPTERS and "learning_rate" not in (named.get("loop") or {}):
        asked = {key: value for key, value in (overrides or {}).items() if value is not None}
        given |= _first_rates(METHODS[method], preset) | asked
    return load_settings(kind, config, given)


def _first_rates(spec: MethodSpec, preset: BackbonePreset) -> dict[str, Any]:
    """Where a method's learning rates start when nobody names any: the preset's, else the first of its grid."""
    rate = preset.adapter_learning_rates.get(spec.name)
    return dict(spec.grid[0] if rate is None else spec.tried([rate])[0])


def multitask_settings(
    method: str, config: Path | None = None, overrides: dict[str, Any] | None = None
) -> MultitaskSettings:
    """Settings of one adapter for several tasks, weakest first: the defaults, the first learning rate of the method's
    tuning grid, a YAML file, overrides. Raises TrainingError for unknown methods and keys."""
    load_settings(MultitaskSettings, config)  # errors name the file
    named = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config else {}
    if named.get("method", method) != method:
        raise TrainingError(f"{config}: is for method {named['method']}, not {method}.")
    given = dict(overrides or {}) | {"method": method}
    if "learning_rate" not in (named.get("loop") or {}):
        given |= {key: given.get(key) or rate for key, rate in find_multitask(method).grid[0].items()}
    return load_settings(MultitaskSettings, config, given)


def require_out(out: Path, tasks: int) -> None:
    """Several task files go into a folder, one into a file. Raises TrainingError otherwise, ArtifactError where nothing
    can be written."""
    if tasks > 1 and out.suffix == ".safetensors":
        raise TrainingError(f"--out {out}: several tasks are written into a folder; name one without .safetensors.")
    if tasks == 1 and out.is_dir():
        raise TrainingError(f"--out {out}: is a folder; name the task file, for example {out / 'task.safetensors'}.")
    require_folder(out if tasks > 1 else out.parent)
