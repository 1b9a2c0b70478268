"""A metaprompt with more source tasks: by name, with the old ones measured before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clinprompt import api, suites
from clinprompt.backbone.model import Backbone
from clinprompt.corpora.catalog import catalog_ids
from clinprompt.errors import ClinpromptError, TrainingError
from clinprompt.evaluation.answerer import of_source
from clinprompt.evaluation.evaluate import evaluate_records
from clinprompt.prompts.artifact import Metaprompt, save_metaprompt
from clinprompt.task_lookup import SAMPLE, load_suite, load_task, task_definition
from clinprompt.training import extend as training
from clinprompt.training.extend import Extended, with_metrics
from clinprompt.training.learn import SourceTask, StageProgress
from clinprompt.training.processes import Processes
from clinprompt.training.settings import ExtendSettings

READ = ("train", "validation")


@dataclass(frozen=True)
class OldSources:
    """A metaprompt's own tasks: those whose data were found, and why the others' were not."""

    found: list[SourceTask]
    missing: dict[str, str]


def extend(
    metaprompt: str | Path | Metaprompt,
    tasks: Sequence[str | Path],
    out: str | Path,
    *,
    old: Sequence[str | Path] | OldSources = (),
    backbone: str | Path | Backbone | None = None,
    data_dir: str | Path | None = None,
    settings: ExtendSettings | None = None,
    score: int = 0,
    processes: Processes | None = None,
    progress: StageProgress | None = None,
) -> Extended:
    """Add source tasks to a metaprompt; the result is a new one in `out` (``metaprompt.safetensors``).

    `old`: where the old tasks' data are, beyond the catalog and the synthetic sample (task YAMLs, suites), or what
    `old_sources` found. `score`: so many validation records of each old source are scored before and after, into the
    card. The same call continues an interrupted run. Raises what `clinprompt.training.extend.extend` raises, and
    TrainingError if `out` holds the parent.
    """
    parent = api.load_artifact_as(metaprompt, "metaprompt") if isinstance(metaprompt, str | Path) else metaprompt
    model = api.as_backbone(backbone or parent.card.backbone.name)
    require_other_place(parent, Path(out))
    known = old if isinstance(old, OldSources) else old_sources(parent, old, data_dir)
    new, chosen = new_sources(tasks, data_dir), settings or api.settings_for(ExtendSettings, model.preset)
    processes = processes or Processes()
    found = training.extend(model, parent, known.found, new, chosen, Path(out), processes=processes, progress=progress)
    if score and processes.main:
        found.metaprompt = _scored(model, parent, found.metaprompt, known.found, score, Path(out))
    processes.wait()
    return found


def new_sources(tasks: Sequence[str | Path], data_dir: str | Path | None = None) -> list[SourceTask]:
    """Tasks by name or path, as training reads them."""
    return [api.source_task(load_task(task, data_dir, splits=READ)) for task in tasks]


def require_other_place(parent: Metaprompt, out: Path) -> None:
    """Raises TrainingError if the extended metaprompt would be written over its parent."""
    there = out / "metaprompt.safetensors"
    if there.is_file() and api.load_artifact_as(there, "metaprompt").digest == parent.digest:
        raise TrainingError(f"--out {out}: holds the metaprompt that is to be extended; name another folder.")


def old_sources(parent: Metaprompt, named: Sequence[str | Path] = (), data_dir: str | Path | None = None) -> OldSources:
    """The data of a metaprompt's own tasks: from `named` task YAMLs and suites, the catalog, or the synthetic sample.

    Raises TrainingError if something named is no task of the metaprompt.
    """
    places: dict[str, str | Path] = {}
    for place in named:
        listed = _tasks_of(place, data_dir)
        if not set(listed) & set(parent.names):
            raise TrainingError(f"--old {place}: none of the metaprompt's tasks ({', '.join(parent.names)}) is there.")
        places |= listed
    found, missing = [], {}
    for name in parent.names:
        public = name in catalog_ids() or name.startswith(f"{SAMPLE}-")
        if name not in places and not public:
            missing[name] = "not in the catalog, and --old names no data of it"
            continue
        try:
            found.append(api.source_task(load_task(places.get(name, name), data_dir, splits=READ)))
        except ClinpromptError as error:
            if name in places:
                raise
            missing[name] = str(error)
    return OldSources(found, missing)


def _tasks_of(place: str | Path, data_dir: str | Path | None) -> dict[str, str | Path]:
    """Task names → where they are read, of a suite or a single task."""
    if str(place) == SAMPLE:
        return {data.task.name: data.task.name for data in load_suite(SAMPLE, splits=())}
    if str(place) in suites.suite_names() or _is_suite(Path(place)):
        listed: list[str | Path] = [task for task, _ in suites.load_suite(place).tasks]
    else:
        listed = [place]
    return {task_definition(task).name: task for task in listed}


def _is_suite(path: Path) -> bool:
    """Whether a YAML file lists tasks. A file that cannot be read is no suite: reading it as a task says why."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(raw, dict) and "type" not in raw and bool({"sources", "targets"} & set(raw))


def _scored(
    model: Backbone, parent: Metaprompt, learned: Metaprompt, old: Sequence[SourceTask], limit: int, out: Path
) -> Metaprompt:
    """Headline scores of the old sources before and after, written into the card of the file."""
    scores: dict[str, Any] = {}
    for source in old:
        if not source.validation:
            continue
        name, both = source.task.name, []
        for metaprompt in (parent, learned):
            both.append(evaluate_records(of_source(model, metaprompt, name), source.validation, limit=limit))
        before, after = (round(found.value.value, 3) for found in both)
        scores[name] = {"metric": both[0].headline, "n": both[0].n, "before": before, "after": after}
    metrics = learned.card.metrics
    metrics = {**metrics, "extension": {**metrics["extension"], "old_scores": scores}}
    return save_metaprompt(with_metrics(learned, metrics), out / "metaprompt.safetensors")
