"""Suites and the data of tasks: a name or a YAML file becomes a task with its records.

A task is named by its id in the catalog, or by the path of a task YAML that stands beside a user's own corpus. A suite
lists tasks of both kinds as sources and targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clinprompt.corpora.catalog import CatalogEntry, catalog_entry, catalog_ids, load_corpus, resolve_data_dir
from clinprompt.corpora.formats import read_corpus
from clinprompt.corpora.jsonl import record_to_dict
from clinprompt.corpora.splits import carve_validation, sample
from clinprompt.errors import TaskError, unknown_name
from clinprompt.records import Record
from clinprompt.tasks.definition import SPLITS, TaskDefinition, load_task

__all__ = [
    "Suite",
    "SuiteAverage",
    "TaskData",
    "load_suite",
    "load_task_data",
    "resolve_data_dir",
    "resolve_task",
    "show",
    "suite_average",
    "suite_data",
]

Role = Literal["source", "target"]
_SUITES = package_files("clinprompt.corpora") / "suite_files"


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task and its records. `splits` has all of train, validation and test; one that is not there is empty.

    `role` is what the suite (or the catalog) uses the task for; a user's own task is a target unless a suite says else.
    """

    task: TaskDefinition
    role: Role
    splits: Mapping[str, list[Record]]
    licence: str = ""

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(records) for split, records in self.splits.items()}


class Suite(BaseModel):
    """Source tasks to learn a metaprompt from, target tasks to adapt it to: catalog ids or paths of task YAMLs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    average: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="task name: the metrics whose mean is its score; see `suite_average`"
    )

    @property
    def tasks(self) -> tuple[tuple[str, Role], ...]:
        """(task, role), sources first."""
        return (*((task, "source") for task in self.sources), *((task, "target") for task in self.targets))


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(item.name.removesuffix(".yaml") for item in _SUITES.iterdir() if item.name.endswith(".yaml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """A suite that comes with the package, by name, or any suite YAML, by path.

    Relative paths of tasks in a suite file count from its folder; in the result they are complete. Raises TaskError for
    an unknown name, an unknown key, a task that is neither in the catalog nor a file, and a task listed twice.
    """
    name = str(name_or_path)
    if name in suite_names():
        return _parse_suite((_SUITES / f"{name}.yaml").read_text(encoding="utf-8"), name, Path())
    path = Path(name_or_path)
    if not _names_a_file(name):
        raise TaskError(unknown_name("suite", name, suite_names()) + " Or give the path of a suite YAML.")
    try:
        return _parse_suite(path.read_text(encoding="utf-8"), name, path.parent)
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file. Give the path of a suite YAML, or one of {suite_names()}.") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None


def _parse_suite(text: str, where: str, folder: Path) -> Suite:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise TaskError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(raw, dict):
        raise TaskError(f"{where}: a suite file is a mapping with `name`, `description`, `sources` and `targets`.")
    try:
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        raise TaskError(f"{where}: " + "; ".join(_explain(e) for e in error.errors())) from None
    resolved = {
        role: tuple(_resolved(task, where, folder) for task in getattr(suite, role)) for role in ("sources", "targets")
    }
    listed = [task for tasks in resolved.values() for task in tasks]
    if not listed:
        raise TaskError(f"{where}: the suite has no tasks. List catalog ids or task YAMLs under `sources`.")
    twice = sorted({task for task in listed if listed.count(task) > 1})
    if twice:
        raise TaskError(f"{where}: listed more than once: {', '.join(twice)}. A task is a source or a target, once.")
    suite = suite.model_copy(update=resolved)
    _check_average(suite, where)
    return suite


def _check_average(suite: Suite, where: str) -> None:
    names = [resolve_task(task).name for task, _ in suite.tasks] if suite.average else []
    for task, metrics in suite.average.items():
        if task not in names:
            raise TaskError(f"{where}: `average`: " + unknown_name("task of the suite", task, names))
        if not metrics:
            raise TaskError(f"{where}: `average`: {task} has no metrics. Name the metrics whose mean is its score.")


@dataclass(frozen=True, slots=True)
class SuiteAverage:
    """A benchmark's one number, and the score of each task that it is the mean of; in the unit of the metrics.

    `undefined`: "task: metric" of every score that is not defined; with any of them `value` is nan."""

    value: float
    tasks: Mapping[str, float]
    undefined: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"undefined ({', '.join(self.undefined)})" if self.undefined else f"{self.value:.1f}"


def suite_average(suite: Suite, scores: Mapping[str, Mapping[str, float | None]]) -> SuiteAverage:
    """The leaderboard's average: the mean over a task's metrics, then the unweighted mean over the tasks (GLUE, arXiv
    1804.07461, §3; SuperGLUE, arXiv 1905.00537, §3).

    `scores`: task → metric → value, as `evaluate --json` has them under "metrics" (there: ["value"]). A metric that is
    undefined is None (there: null) or nan; then the task's score and the average are nan, and `undefined` says why.
    Raises TaskError if the suite defines no average or a score is missing:
    an average over some of the tasks is another number.
    """
    if not suite.average:
        raise TaskError(f"suite {suite.name}: defines no `average`. Add one to its YAML: task name: [metric, …].")
    per_task, undefined = {}, []
    for task, metrics in suite.average.items():
        lacking = [metric for metric in metrics if metric not in scores.get(task, {})]
        if lacking:
            raise TaskError(
                f"suite {suite.name}: no score of {task} for {lacking[0]}. The average is over all "
                f"{len(suite.average)} tasks: evaluate {task} on its test split first."
            )
        values = [math.nan if (value := scores[task][metric]) is None else value for metric in metrics]
        undefined += [f"{task}: {metric}" for metric, value in zip(metrics, values, strict=True) if math.isnan(value)]
        per_task[task] = sum(values) / len(values)
    return SuiteAverage(sum(per_task.values()) / len(per_task), per_task, tuple(undefined))


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key `{key}` (known keys: {', '.join(Suite.model_fields)})"
    return f"`{key}`: {'is missing' if error['type'] == 'missing' else error['msg']}"


def _resolved(task: str, where: str, folder: Path) -> str:
    if task in catalog_ids():
        return task
    if not _names_a_file(task):
        raise TaskError(f"{where}: " + unknown_name("task", task, list(catalog_ids())) + " A path ends in .yaml.")
    path = folder / task
    if not path.is_file():
        raise TaskError(f"{where}: task file {path} does not exist. Paths count from the folder of the suite file.")
    return str(path)


def _names_a_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


# --- a task's data ----------------------------------------------------------------------------------------------------


def resolve_task(name_or_path: str | Path) -> TaskDefinition:
    """The definition of a catalog task, or of a task YAML, without reading any data."""
    name = str(name_or_path)
    if _names_a_file(name):
        return load_task(name_or_path)
    if name not in catalog_ids():
        raise TaskError(unknown_name("task", name, list(catalog_ids())) + " Or give the path of a task YAML.")
    return catalog_entry(name).task


def load_task_data(
    name_or_path: str | Path,
    data_dir: Path | str | None = None,
    *,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    role: Role | None = None,
) -> TaskData:
    """A task with its records.

    splits: only these (all if None); the others come out empty. limit: at most so many records per split, the same
    ones in every run (those whose ids hash lowest). `data_dir` concerns catalog tasks (see `resolve_data_dir`); the
    files of a task YAML count from its own folder, and where it names no validation files, every eighth group of its
    training records (by hash) is set aside for validation. Training records of a catalog corpus that repeat a text of
    a target's test split (`CatalogEntry.withheld`: four sentences and one abstract in all) are left out.

    Raises TaskError for an unknown task or split, DataMissingError for corpora that are not there, CorpusError for
    files that cannot be read.
    """
    unknown = sorted(set(splits or ()) - set(SPLITS))
    if unknown:
        raise TaskError(unknown_name("split", unknown[0], list(SPLITS)))
    task = resolve_task(name_or_path)
    if _names_a_file(str(name_or_path)):
        found = read_task_files(task, Path(name_or_path), splits)
        own_role: Role = "target"
        licence = task.licence
    else:
        entry = catalog_entry(str(name_or_path))
        found, own_role, licence = _without_leaks(entry, data_dir), entry.role, entry.licence
    wanted = splits or SPLITS
    kept = {split: sample(found.get(split, []), limit) if split in wanted else [] for split in SPLITS}
    return TaskData(task, role or own_role, kept, licence)


def _without_leaks(entry: CatalogEntry, data_dir: Path | str | None) -> dict[str, list[Record]]:
    withheld = frozenset(entry.withheld)
    return {
        split: [record for record in records if split == "test" or record.id not in withheld]
        for split, records in load_corpus(entry.id, data_dir).items()
    }


def read_task_files(
    task: TaskDefinition, yaml_path: Path, splits: Sequence[str] | None = None
) -> dict[str, list[Record]]:
    """The records of a task YAML's own files, validation carved from training if none is named."""
    if not task.files:
        raise TaskError(
            f"{yaml_path}: no `files`. Name the files of each split (train, validation, test), relative to this file."
        )
    if task.format is None:
        raise TaskError(f"{yaml_path}: no `format`. Say how the files are written, for example `format: brat`.")
    carves = "validation" not in task.files
    wanted = set(splits or SPLITS)
    if carves and wanted & {"train", "validation"}:
        wanted |= {"train"}
    found = {split: read_split(task, yaml_path, split) for split in task.files if split in wanted}
    return carve_validation(found.get("train", []), found.get("test", [])) if carves else found


def read_split(task: TaskDefinition, yaml_path: Path, split: str) -> list[Record]:
    """The records of one split of a task YAML, as its files have them."""
    return read_corpus(task.format or "", task_paths(task, yaml_path, split), task.columns or None, task.reader)


def task_paths(task: TaskDefinition, yaml_path: Path, split: str) -> list[Path]:
    """The files (or folders) of a split; relative ones count from the folder of the YAML."""
    named = task.files[split]
    return [yaml_path.parent / name for name in ([named] if isinstance(named, str) else named)]


def suite_data(
    suite: Suite,
    data_dir: Path | str | None = None,
    *,
    roles: Sequence[Role] = ("source", "target"),
    splits: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[TaskData]:
    """The data of a suite's tasks one after the other, so that a caller need not hold all of it. Names must differ."""
    seen: dict[str, str] = {}
    for name, role in suite.tasks:
        if role in roles:
            data = load_task_data(name, data_dir, splits=splits, limit=limit, role=role)
            if data.task.name in seen:
                raise TaskError(
                    f"suite {suite.name}: {name} and {seen[data.task.name]} are both named {data.task.name!r}. "
                    "Rename one: prompts are stored under the task's name."
                )
            seen[data.task.name] = name
            yield data


def show(
    name_or_path: str | Path, split: str = "train", n: int = 3, data_dir: Path | str | None = None
) -> list[dict[str, Any]]:
    """The first `n` records of a split as JSON-ready mappings. The only function here whose output holds note text."""
    return [
        record_to_dict(record) for record in load_task_data(name_or_path, data_dir, splits=[split]).splits[split][:n]
    ]
