"""The cells of a multi-task comparison: (row, task, seed), where one training per row, trial and seed serves all tasks.

A training's id is a hash of the backbone, all tasks with their records, the method, the budget of numbers, where its
network comes from, and its settings. Rows that want the same training share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from clinprompt.api import source_task
from clinprompt.architecture.network import Architecture
from clinprompt.backbone.model import Backbone
from clinprompt.errors import TaskError, TrainingError, unknown_name
from clinprompt.experiments.cells import FORMAT, CellPlan, Group
from clinprompt.experiments.multitask_protocol import Contender, MultitaskProtocol
from clinprompt.experiments.multitask_trainings import train_adapters
from clinprompt.experiments.protocol import FULL, Shots
from clinprompt.experiments.results import Cell, Trial
from clinprompt.experiments.store import Store, read_json
from clinprompt.experiments.trainings import Progress, Row, Trained
from clinprompt.experiments.workbench import Workbench, members
from clinprompt.methods.registry import MethodSpec
from clinprompt.task_lookup import load_task, task_definition
from clinprompt.training.identity import digest_of
from clinprompt.training.learn import SourceTask
from clinprompt.training.multitask import MultitaskSettings
from clinprompt.training.multitask_banks import adapter_settings, multitask_parameters
from clinprompt.training.multitask_joint import JointLoraSettings
from clinprompt.training.search import SearchSettings
from clinprompt.training.sizing import Sized, sized
from clinprompt.version import __version__

DECIDES_NOTHING = ("checkpoint_every", "micro_tokens")  # of a loop: how a result is computed, not what it is


@dataclass
class MultitaskBench(Workbench):
    """A workbench whose methods learn all tasks together; `protocol` is what `plan` says of records."""

    plan: MultitaskProtocol = field(kw_only=True)
    _sized: dict[str, Sized] = field(default_factory=dict, kw_only=True)
    _searched: dict[Any, list[SourceTask]] = field(default_factory=dict, kw_only=True)

    @property
    def suite(self) -> str:
        """Never in one table with methods that learn one task at a time."""
        return f"{Path(self.plan.suite).stem} (multi-task)"

    def described(self, method: str) -> dict[str, Any]:
        """The comparison's protocol, and this row's adapter."""
        chosen = adapter_settings(self.contender(method).method, self.sized(method).adapter)
        adapter = chosen.model_dump(mode="json")
        if isinstance(chosen, JointLoraSettings):
            adapter["length"] = chosen.positions
        facts = {"adapter": adapter, "budget": self.budget, "tasks": len(self.target_names())}
        return {"multitask": self.plan.model_dump(mode="json", exclude_defaults=True), **facts}

    # -- methods ------------------------------------------------------------------------------------------------------

    def contender(self, name: str) -> Contender:
        """A row of the table."""
        return self.plan.methods[name]

    def spec(self, method: str) -> MethodSpec:
        """The multi-task method of a row, under the row's name and with the trials it has."""
        found = self.plan.spec(method)
        return replace(found, name=method, grid=found.grid[: self.plan.trials_of(method)])

    def trials_of(self, spec: MethodSpec, shots: Shots) -> int:
        """How many settings a row tries."""
        return len(spec.grid)

    @cached_property
    def budget(self) -> int:
        """Trained numbers over all tasks that every row comes as near to as it can."""
        return self.plan.parameters or multitask_parameters(self.backbone, len(self.target_names()), "lora", {})

    def sized(self, name: str) -> Sized:
        """A row's adapter at the budget. Raises TrainingError where its network is yet to be searched."""
        if name not in self._sized:
            row = self.contender(name)
            network = self.architecture(name)
            given = row.adapter | ({} if network is None else {"architecture": network.model_dump(mode="json")})
            self._sized[name] = sized(self.backbone, len(self.target_names()), row.method, self.budget, given)
        return self._sized[name]

    def architecture(self, name: str) -> Architecture | None:
        """The network of a row: given, or found by its search; None: the method's default, or it has none."""
        row = self.contender(name)
        if row.search is None:
            return None if row.architecture is None else row.architecture.bare()
        found = self.found(name)
        if found is None:
            raise TrainingError(f"{name}: its network is not searched yet.")
        return Architecture.model_validate(found["architecture"]).bare()

    def foreseen_settings(self, name: str) -> MultitaskSettings:
        """As a training will be, as far as that is known before a search: then with the smallest it may find."""
        row, asked = self.contender(name), self.plan.search_settings()
        if row.search is None or self.found(name) is not None:
            return self.training_settings(name, 0, 0)
        sizes = {"width": min(asked.widths), "hidden": min(asked.hiddens), "length": min(asked.lengths)}
        given = {**row.adapter, "architecture": sizes}
        size = sized(self.backbone, len(self.target_names()), row.method, self.budget, given)
        return self.plan.settings(name, 0, 0, size.adapter)

    def training_settings(self, name: str, trial: int, seed: int) -> MultitaskSettings:
        """One training of a row."""
        return self.plan.settings(name, trial, seed, self.sized(name).adapter)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def trainees(self) -> list[SourceTask]:
        """All tasks as training sees them."""
        return [self.trainee(name) for name in self.target_names()]

    def searched_on(self, name: str) -> list[SourceTask]:
        """The tasks that a row's network is searched on. Raises TaskError for sources the suite does not have."""
        wanted = self.contender(name).search
        if wanted not in self._searched:
            self._searched[wanted] = self._named(wanted)
        return self._searched[wanted]

    def _named(self, wanted: str | tuple[str, ...] | None) -> list[SourceTask]:
        if wanted == "tasks" or wanted is None:
            return self.trainees()
        references = {task_definition(reference).name: reference for reference in members(self.plan.suite, "source")}
        for task in wanted:
            if task not in references:
                raise TaskError(unknown_name("source", task, list(references)))
        return [source_task(load_task(references[t], self.data_dir, splits=("train", "validation"))) for t in wanted]

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
        """All tasks of every training that these rows name; what was trained before is read from the store."""
        return train_adapters(self, spec.name, rows, progress)

    def train_again(
        self, spec: MethodSpec, shots: Shots, rows: Sequence[Row], name: str, progress: Progress | None = None
    ) -> dict[Row, Trained]:
        """As `train`: all tasks of a training are in it anyway."""
        return train_adapters(self, spec.name, rows, progress)

    def annotated(self, line: Cell) -> Cell:
        """Also trials of the search, the network chosen, and bytes as a task's share of the one file."""
        found = self.found(line.method) if self.contender(line.method).search else None
        tried = [_search_trial(trial) for trial in found["trials"]] if found else []
        network = self.architecture(line.method)
        chosen = line.chosen | ({} if network is None else {"network": _words(network.model_dump())})
        cost = found and {key: found[key] for key in ("seconds", "joules", "flops", "tokens")}
        searched_on = [source.task.name for source in self.searched_on(line.method)] if found else []
        settings = line.settings | ({"search": {**cost, "trials": len(tried), "tasks": searched_on}} if cost else {})
        stored = round(line.stored_bytes / len(self.target_names()))
        on = f"mean validation loss of all {len(self.target_names())} tasks"
        judged = [trial.model_copy(update={"on": on}) for trial in line.trials]
        update = {"trials": (*judged, *tried), "chosen": chosen, "settings": settings, "stored_bytes": stored}
        return line.model_copy(update=update)

    # -- identities ---------------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """A group per row: all tasks and seeds."""
        return [self._row(name) for name in self.plan.methods]

    def groups_of(self, method: str, target: str, shots: Shots) -> list[Group]:
        """The group of a row."""
        return [self._row(method)] if method in self.plan.methods and shots == FULL else []

    def claimed(self, group: Group, cells: Sequence[CellPlan]) -> set[str]:
        """Also the trainings, which rows may share, and the search."""
        trials = range(self.plan.trials_of(group.method))
        seeds = {seed for _, seed in group.pool} | {cell.seed for cell in cells}
        trainings = {self.training_id(group.method, trial, seed) for trial in trials for seed in seeds}
        searches = set() if self.contender(group.method).search is None else {self.search_id(group.method)}
        return super().claimed(group, cells) | trainings | searches

    def training_id(self, name: str, trial: int, seed: int) -> str:
        """Identity of one training; its folder in the store."""
        return digest_of({**self._common(name), "settings": self._described(name, trial, seed)})

    def search_id(self, name: str) -> str:
        """Identity of a row's search; its folder in the store."""
        about = {"format": FORMAT, "library": __version__, "backbone": self.backbone.fingerprint}
        tasks = [self._source_digest(source) for source in self.searched_on(name)]
        return digest_of({**about, "search": self.plan.search_settings().model_dump(mode="json"), "tasks": tasks})

    def training_folder(self, name: str, trial: int, seed: int) -> Path:
        return self.store.work / "multitask" / self.training_id(name, trial, seed)

    def search_folder(self, name: str) -> Path:
        return self.store.work / "searches" / self.search_id(name)

    def found(self, name: str) -> dict[str, Any] | None:
        """What a row's search found and cost: architecture, trials, seconds, joules, flops, tokens; None before it."""
        return read_json(self.search_folder(name) / "found.json")

    def search_settings(self) -> SearchSettings:
        """How networks are searched."""
        return self.plan.search_settings()

    def _row(self, name: str) -> Group:
        names, trials = tuple(self.target_names()), self.plan.trials_of(name)
        runs = [(0, seed) for seed in range(self.plan.seeds)]
        pool = tuple(runs[: self.plan.tuning_runs]) if trials > 1 else ()
        if pool:
            for task in names:
                self._require_validation(task)
        described = [self._described(name, trial, 0) for trial in range(trials)]
        selection = digest_of({**self._common(name), "row": name, "trials": described, "pool": pool})
        cells = tuple(
            CellPlan(name, task, FULL, draw, seed, self._cell_id(selection, task, draw, seed))
            for task in names
            for draw, seed in runs
        )
        return Group(name, names, FULL, pool, selection, cells)

    def _common(self, name: str) -> dict[str, Any]:
        row = self.contender(name)
        network = {"searched": self.search_id(name)} if row.search else None
        if row.architecture:
            network = row.architecture.bare().model_dump(mode="json")
        return {
            "format": FORMAT,
            "library": __version__,
            "backbone": self.backbone.fingerprint,
            "method": row.method,
            "adapter": row.adapter,
            "network": network,
            "budget": self.budget,
            "tasks": [self._digest(task) for task in self.target_names()],
        }

    def _described(self, name: str, trial: int, seed: int) -> dict[str, Any]:
        found = self.plan.settings(name, trial, seed, {}).model_dump(mode="json")
        for key in DECIDES_NOTHING:
            found["loop"].pop(key)
        return found


def _search_trial(trial: Mapping[str, Any]) -> Trial:
    score = trial["discrete_loss"]
    values = {"network": _words(trial["architecture"])}
    return Trial(
        values=values, score=None if score is None else round(score, 6), on="search: validation loss of its tasks"
    )


def _words(network: Mapping[str, Any]) -> str:
    chain = " → ".join(network["operations"])
    return f"{chain} (width {network['width']}, hidden {network['hidden']}, length {network['length']})"


def multitask_bench(
    plan: MultitaskProtocol, backbone: Backbone, store: Store, data_dir: Path | None = None
) -> MultitaskBench:
    """A workbench for this comparison."""
    return MultitaskBench(plan.records(), backbone, store, data_dir, plan.role, plan=plan)
