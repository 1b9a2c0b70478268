"""What the cells of a sweep are made from: the backbone, the records of the suite, and the metaprompts, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinprompt import suites
from clinprompt.api import source_task
from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TaskError, TrainingError, unknown_name
from clinprompt.experiments import trainings
from clinprompt.experiments.cells import FORMAT, CellPlan, Group, records_digest
from clinprompt.experiments.held_out import judging
from clinprompt.experiments.protocol import FULL, Protocol, Shots
from clinprompt.experiments.results import Cell
from clinprompt.experiments.store import Store
from clinprompt.experiments.trainings import Progress, Row, Trained, named
from clinprompt.methods.registry import MethodSpec, Overrides, find_method
from clinprompt.prompts.artifact import Metaprompt, load_metaprompt
from clinprompt.records import Record
from clinprompt.suites import TaskData
from clinprompt.task_lookup import SAMPLE, load_task, sample_tasks, task_definition
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.adapt import Plan, plan_examples
from clinprompt.training.batching import TaskExamples
from clinprompt.training.examples import answer_limit, sample_records
from clinprompt.training.identity import digest_of
from clinprompt.training.learn import SOURCE_STAGE, SourceTask, portable
from clinprompt.training.settings import AdaptSettings
from clinprompt.version import __version__

DECIDES_NOTHING = {"loop": {"checkpoint_every", "micro_tokens"}}
"""Fields of AdaptSettings that change how a result is computed and not what it is."""


@dataclass
class Workbench:
    """A protocol with everything needed to run its cells in this process. Records and metaprompts are read once."""

    protocol: Protocol
    backbone: Backbone
    store: Store
    data_dir: Path | None = None
    role: suites.Role = "target"
    _targets: dict[str, TaskData] = field(default_factory=dict)
    _digests: dict[str, dict[str, Any]] = field(default_factory=dict)
    _sources: list[SourceTask] | None = None
    _judges: dict[str, SourceTask] = field(default_factory=dict)
    _metaprompts: dict[str, Metaprompt] = field(default_factory=dict)
    _examples: dict[tuple[Any, ...], TaskExamples] = field(default_factory=dict)
    _available: dict[str, int] = field(default_factory=dict)
    _limits: dict[str, int] = field(default_factory=dict)

    # -- what the lines say -------------------------------------------------------------------------------------------

    @property
    def suite(self) -> str:
        """What the lines are told apart by: results of two suites never stand in one table."""
        return self.protocol.suite

    def described(self, method: str) -> dict[str, Any]:
        """What a line's `settings` need so that its cell can be computed again."""
        return {"protocol": self.protocol.model_dump(mode="json", exclude_defaults=True)}

    # -- records ------------------------------------------------------------------------------------------------------

    def target_names(self) -> list[str]:
        """The targets of the sweep in the suite's order. Raises TaskError for a target the suite does not have."""
        known = [task_definition(reference).name for reference in members(self.protocol.suite, self.role)]
        for name in (*self.protocol.targets, *self.protocol.target_limits):
            if name not in known:
                raise TaskError(unknown_name("target", name, known))
        return [name for name in known if not self.protocol.targets or name in self.protocol.targets]

    def target(self, name: str) -> TaskData:
        """A target with its records. Raises TaskError if a split that is needed is empty."""
        if name not in self._targets:
            references = members(self.protocol.suite, self.role)
            reference = next(r for r in references if task_definition(r).name == name)
            data = load_task(reference, self.data_dir)
            for split in ("train", "test"):
                if not data.splits[split]:
                    raise TaskError(f"target {name}: no {split} records, and a benchmark needs them.")
            limits = {str(split): most for split, most in self.protocol.target_limits.get(name, {}).items()}
            kept = {split: sample_records(name, found, limits.get(split)) for split, found in data.splits.items()}
            self._available[name] = len(data.splits["test"])
            self._targets[name] = TaskData(data.task, data.role, kept, data.licence) if limits else data
        return self._targets[name]

    def available(self, name: str) -> int:
        """How many test records a target has, used or not."""
        data = self.target(name)
        return self._available.get(name, len(data.splits["test"]))

    def test_records(self, name: str) -> list[Record]:
        """The test records of a target, sampled by hash up to the limit."""
        limit = self.protocol.limits.test
        records = list(self.target(name).splits["test"])
        return records if limit is None else sample_records(name, records, limit)

    def sources(self) -> list[SourceTask]:
        """The source tasks of the suite, for metaprompts."""
        if self._sources is None:
            found = [
                load_task(reference, self.data_dir, splits=("train", "validation"))
                for reference in members(self.protocol.suite, "source")
            ]
            if not found:
                raise TaskError(f"suite {self.protocol.suite}: lists no `sources`, and MPT learns from sources.")
            self._sources = [source_task(data) for data in found]
        return self._sources

    def trainee(self, name: str) -> SourceTask:
        """A target as training sees it: its test records are not in it. A source that judges trials: what metaprompts
        have not seen of it."""
        return self._judges[name] if name in self._judges else source_task(self.target(name))

    def judges(self, shots: Shots) -> tuple[str, ...]:
        """The sources that judge trials with this number of shots; none if the targets do."""
        if self.protocol.choose_on == "target":
            return ()
        learn = self.protocol.learn_settings(find_method("mpt"), self.backbone.preset, 0)
        names = {task_definition(reference).name for reference in members(self.protocol.suite, "target")}
        found = judging(self.sources(), names, learn, shots, self.protocol.choose_sources)
        self._judges |= {source.task.name: source for source in found}
        return tuple(source.task.name for source in found)

    # -- settings -----------------------------------------------------------------------------------------------------

    def spec(self, method: str) -> MethodSpec:
        """What a method of the sweep is."""
        return find_method(method)

    def settings(self, method: str, shots: Shots, trial: int, draw: int = 0, seed: int = 0) -> AdaptSettings:
        """The settings of one row."""
        return self.protocol.adapt_settings(
            find_method(method), self.backbone.preset, shots, trial, draw=draw, seed=seed
        )

    def examples(self, name: str, settings: AdaptSettings) -> TaskExamples:
        """What a row trains on, encoded; trials of one draw share it."""
        length, position = self.prompt_length(), self.prompt_position()
        key = (name, settings.shots, settings.draw, settings.seed if settings.shots is not None else 0)
        if key not in self._examples:
            self._examples[key] = plan_examples(self.backbone, Plan(self.trainee(name), settings), length, position)
        return self._examples[key]

    def prompt_length(self) -> int:
        """Prompt length of all methods that have a prompt: that of the metaprompts."""
        return int(self.protocol.learn.get("prompt_length") or self.backbone.preset.prompt_length)

    def prompt_position(self) -> PromptPosition:
        """Where the prompt stands in all methods that have one: as in the metaprompts."""
        found: PromptPosition = self.protocol.learn.get("prompt_position") or self.backbone.preset.prompt_position
        return found

    def answer_limit(self, name: str) -> int:
        """Most tokens of an answer, the same for every cell of a target: from its training records."""
        if name not in self._limits:
            settings = self.protocol.adapt_settings(find_method("pt"), self.backbone.preset, FULL, 0)
            encoded: list[Encoded] = self.examples(name, settings).train
            self._limits[name] = answer_limit(encoded, settings.target_reserve)
        return self._limits[name]

    # -- work ---------------------------------------------------------------------------------------------------------

    def train(
        self,
        spec: MethodSpec,
        shots: Shots,
        rows: Sequence[Row],
        *,
        selections: Mapping[str, str],
        most: int,
        name: str,
        progress: Progress | None = None,
    ) -> dict[Row, Trained]:
        """Rows with all that trains together with them; `name` is what progress is shown under (`trainings.train`)."""
        told = named(name, progress)
        return trainings.train(self, spec, shots, rows, selections=selections, most=most, progress=told)

    def train_again(
        self, spec: MethodSpec, shots: Shots, rows: Sequence[Row], name: str, progress: Progress | None = None
    ) -> dict[Row, Trained]:
        """Exactly these rows together, as a line recorded them; nothing of it is kept in the store."""
        return trainings.train_together(self, spec, shots, tuple(rows), progress=named(name, progress))

    def annotated(self, line: Cell) -> Cell:
        """A finished line with what only this kind of comparison has."""
        return line

    # -- identities ---------------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """All cells of the sweep, grouped by what is tuned together, in the order of the shots and methods."""
        return [
            group
            for shots in dict.fromkeys((*self.protocol.shots, 0))  # zero-shot is a cell at 0 whatever is listed
            for spec in self.protocol.specs
            if shots in self.protocol.shots_of(spec)
            for name in self.target_names()
            for group in self.groups_of(spec.name, name, shots)
            if name == group.targets[0]
        ]

    def groups_of(self, method: str, target: str, shots: Shots) -> list[Group]:
        """The group that a target belongs to (none if the protocol has no such cells)."""
        spec, names = find_method(method), self.target_names()
        if shots not in self.protocol.shots_of(spec) or target not in names:
            return []
        return [self._group(spec, tuple(names) if _shares(spec) else (target,), shots)]

    def claimed(self, group: Group, cells: Sequence[CellPlan]) -> set[str]:
        """What no other worker may compute while these cells of a group are: a choice that targets share only until
        it is made."""
        chooser = {group.chooser} if group.chooser and self.store.selection(group.chooser) is None else set()
        return {group.selection, *chooser, *(cell.id for cell in cells)}

    def metaprompt_key(self, spec: MethodSpec, seed: int) -> str:
        """Identity of the metaprompt a method needs at a seed: its folder in the store."""
        return digest_of({**self._learning(spec), "seed": seed})

    def teachers_key(self, spec: MethodSpec, seed: int) -> str:
        """Identity of the teachers of that metaprompt; variants of one method agree in it."""
        learning = self._learning(spec)
        settings = {key: value for key, value in learning["settings"].items() if key not in SOURCE_STAGE}
        return digest_of({**learning, "settings": settings, "seed": seed})

    def metaprompt(self, spec: MethodSpec, seed: int) -> Metaprompt | None:
        """The learned metaprompt of a method at a seed; None for methods that need none."""
        if not spec.needs_metaprompt:
            return None
        key = self.metaprompt_key(spec, seed)
        if key not in self._metaprompts:
            self._metaprompts[key] = load_metaprompt(self.store.metaprompt(key) / "metaprompt.safetensors")
        return self._metaprompts[key]

    def grid(self, spec: MethodSpec, shots: Shots) -> tuple[Overrides, ...]:
        """The settings that a method may try, the likeliest first."""
        return self.protocol.grid(spec, shots)

    def trials_of(self, spec: MethodSpec, shots: Shots) -> int:
        """How many settings are tried: the protocol's number for all that train."""
        return self.protocol.trials if spec.trains and shots != 0 else 1

    def _group(self, spec: MethodSpec, names: tuple[str, ...], shots: Shots) -> Group:
        runs, trials = self.protocol.runs(spec, shots), self.trials_of(spec, shots)
        pool = tuple(runs[: self.protocol.tuning_runs]) if trials > 1 else ()
        judges = self.judges(shots) if pool else ()
        if pool and not judges:
            for name in names:
                self._require_validation(name)
        described = [
            self.settings(spec.name, shots, trial).model_dump(mode="json", exclude=DECIDES_NOTHING)
            for trial in range(trials)
        ]
        identity: dict[str, Any] = {
            "format": FORMAT,
            "library": __version__,
            "backbone": self.backbone.fingerprint,
            "prompt_length": self.prompt_length(),
            "method": spec.name,
            "targets": [self._digest(name) for name in names],
            "shots": shots,
            "trials": described,
            "pool": pool,
            "learn": self._learning(spec) if spec.needs_metaprompt else None,
        }
        if spec.adapt.get("method") == "pt" and self.prompt_position() != self.backbone.preset.prompt_position:
            identity["prompt_position"] = self.prompt_position()
        if pool and self.protocol.choose_by != "loss":
            identity["choose_by"] = self.protocol.choose_by
        chooser = ""
        if judges:
            identity["choose_on"] = [self._judge_digest(name) for name in judges]
            chooser = digest_of({key: value for key, value in identity.items() if key != "targets"})
        selection = digest_of(identity)
        cells = tuple(
            CellPlan(spec.name, name, shots, draw, seed, self._cell_id(selection, name, draw, seed))
            for name in names
            for draw, seed in runs
        )
        return Group(spec.name, names, shots, pool, selection, cells, judges, chooser)

    def _cell_id(self, selection: str, name: str, draw: int, seed: int) -> str:
        test = self._digest(name, "test")
        return digest_of({"selection": selection, "target": name, "draw": draw, "seed": seed, "test": test})

    def _learning(self, spec: MethodSpec) -> dict[str, Any]:
        settings = self.protocol.learn_settings(spec, self.backbone.preset, 0).model_dump(mode="json")
        for stage in ("teacher", "source"):
            settings[stage].pop("checkpoint_every")
        return {
            "format": FORMAT,
            "backbone": self.backbone.fingerprint,
            "settings": settings,
            "sources": [self._source_digest(source) for source in self.sources()],
        }

    def _require_validation(self, name: str) -> None:
        if not self.target(name).splits["validation"]:
            raise TrainingError(
                f"target {name}: no validation records to choose among {self.protocol.trials} trials by. Name some "
                "under `files`, or set --trials 1."
            )

    def _digest(self, name: str, part: str = "training") -> dict[str, Any]:
        """Identity of a target's definition with its training side, or of its test records."""
        key = f"{name}/{part}"
        if key not in self._digests:
            data = self.target(name)
            if part == "test":
                found = {"test": records_digest(self.test_records(name))}
            else:
                found = {
                    "task": definition_digest(data.task),
                    "train": records_digest(data.splits["train"]),
                    "validation": records_digest(data.splits["validation"]),
                }
            self._digests[key] = {"name": name, **found}
        return self._digests[key]

    def _judge_digest(self, name: str) -> dict[str, Any]:
        return self._source_digest(self._judges[name], "judge")

    def _source_digest(self, source: SourceTask, part: str = "source") -> dict[str, Any]:
        key = f"{source.task.name}/{part}"
        if key not in self._digests:
            self._digests[key] = {
                "name": source.task.name,
                "task": definition_digest(source.task),
                "train": records_digest(source.train),
                "validation": records_digest(source.validation),
            }
        return self._digests[key]


def members(suite: str, role: suites.Role) -> list[str]:
    """The tasks of a suite with this role, by catalog id, path, or name of a synthetic task."""
    if suite == SAMPLE:
        return [data.task.name for data in sample_tasks() if data.role == role]
    if not suite.endswith((".yaml", ".yml")) and suite not in suites.suite_names():
        raise TaskError(unknown_name("suite", suite, [*suites.suite_names(), SAMPLE]) + " Or give a suite YAML.")
    return [name for name, own in suites.load_suite(suite).tasks if own == role]


def definition_digest(task: TaskDefinition) -> str:
    """Identity of what a task asks; where its files lie is no part of it."""
    return digest_of(portable(task).model_dump(mode="json"))


def _shares(spec: MethodSpec) -> bool:
    return spec.adapt.get("mode") == "group"
