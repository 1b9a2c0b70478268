"""Tasks and suites by the names a user types: catalog ids, task and suite YAMLs, and the synthetic sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from clinprompt import suites
from clinprompt.corpora.catalog import catalog_entry, catalog_ids
from clinprompt.corpora.sample import sample_suite
from clinprompt.corpora.splits import sample
from clinprompt.errors import TaskError, unknown_name
from clinprompt.suites import Role, TaskData
from clinprompt.tasks.definition import SPLITS, TaskDefinition, parse_task

SAMPLE = "sample"
"""Name of the suite of synthetic tasks; each of them is known by its own name too (``sample-events``)."""


@lru_cache(maxsize=4)
def sample_tasks(train: int = 200, validation: int = 40, test: int = 80) -> tuple[TaskData, ...]:
    """The synthetic tasks with these numbers of records per split; 12 sources, 5 targets."""
    return tuple(
        TaskData(task := parse_task(t.definition, where=t.name), t.role, t.splits, task.licence)
        for t in sample_suite(train=train, validation=validation, test=test)
    )


def load_task(
    name_or_path: str | Path,
    data_dir: Path | str | None = None,
    *,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
) -> TaskData:
    """A task with its records: a catalog id, the path of a task YAML, or the name of a synthetic task.

    splits: only these (the others come out empty). limit: at most so many records per split, chosen by hash.
    Raises TaskError, DataMissingError or CorpusError with the cure.
    """
    for data in sample_tasks() if str(name_or_path).startswith(f"{SAMPLE}-") else ():
        if data.task.name == str(name_or_path):
            wanted = splits or SPLITS
            kept = {s: sample(data.splits[s], limit) if s in wanted else [] for s in SPLITS}
            return TaskData(data.task, data.role, kept, data.licence)
    return suites.load_task_data(name_or_path, data_dir, splits=splits, limit=limit)


def task_definition(name_or_path: str | Path) -> TaskDefinition:
    """The definition alone, without reading a corpus."""
    for data in sample_tasks() if str(name_or_path).startswith(f"{SAMPLE}-") else ():
        if data.task.name == str(name_or_path):
            return data.task
    return suites.resolve_task(name_or_path)


def load_suite(
    name_or_path: str | Path,
    data_dir: Path | str | None = None,
    *,
    roles: Sequence[Role] = ("source", "target"),
    splits: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[TaskData]:
    """The tasks of a suite with their records: a suite of the package, a suite YAML, or ``sample``."""
    if str(name_or_path) == SAMPLE:
        wanted = [data for data in sample_tasks() if data.role in roles]
        return [load_task(data.task.name, splits=splits, limit=limit) for data in wanted]
    name = str(name_or_path)
    if not name.endswith((".yaml", ".yml")) and name not in suites.suite_names():
        raise TaskError(
            unknown_name("suite", name, [*suites.suite_names(), SAMPLE]) + " Or give the path of a suite YAML."
        )
    suite = suites.load_suite(name_or_path)
    return list(suites.suite_data(suite, data_dir, roles=roles, splits=splits, limit=limit))


def is_permissive(data: TaskData) -> bool | None:
    """Whether the licence of the data lets anyone use it; None where nobody said (a user's own corpus)."""
    if data.task.name.startswith(f"{SAMPLE}-") and "synthetic" in data.licence:
        return True
    return catalog_entry(data.task.name).permissive if data.task.name in catalog_ids() else None
