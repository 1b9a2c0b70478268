"""The protocol of a comparison of multi-task methods: one adapter for all tasks, of equal size, with equal trials.

It answers what PEML's reviewers asked (arXiv 2605.14055): a plain prefix with LoRA as a control of equal size, the
search among the costs, a network found on other tasks, and tasks whose answer is a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

from clinprompt.architecture.network import Architecture
from clinprompt.experiments.protocol import FULL, ZERO_SHOT, Limits, Protocol, flattened, read_network, validated
from clinprompt.methods.registry import MULTITASK, MethodSpec, find_multitask
from clinprompt.suites import Role
from clinprompt.training.multitask import MultitaskSettings
from clinprompt.training.search import SearchSettings
from clinprompt.training.settings import changed, read_mapping

ALL_RECORDS = 1_000_000
"""The limit of a training that has none."""
OWN = ("method", "adapter", "seed", "limit", "validation_records")  # of a training: said elsewhere in the protocol


class Contender(BaseModel):
    """One row of the comparison: a multi-task method, and what is special about it here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    adapter: dict[str, Any] = Field(default_factory=dict, description="changes of the method's settings but its size")
    architecture: Architecture | None = Field(
        default=None, description="of peml: the network, from a file; what its search cost is charged"
    )
    search: Literal["tasks"] | tuple[str, ...] | None = Field(
        default=None, description="of peml: search the network on the compared tasks, or on these sources of the suite"
    )
    trials: int | None = Field(default=None, ge=1, description="more (or fewer) trials than the others have")
    rates: tuple[PositiveFloat, ...] | None = Field(
        default=None, description="learning rates that the row tries, in this order, instead of those of its own grid"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method not in MULTITASK:
            raise ValueError(f"unknown multi-task method {self.method!r}; known: {', '.join(MULTITASK)}")
        if self.method != "peml" and (self.architecture or self.search):
            raise ValueError("`architecture` and `search` belong to peml")
        if self.architecture and self.search:
            raise ValueError("`architecture` and `search`: a network is given or searched, not both")
        return self


class MultitaskProtocol(BaseModel):
    """Everything that decides the comparison but the backbone and the data folder.

    `training` holds changes of `MultitaskSettings`, `search` of `SearchSettings`, nested or with dots."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    role: Role = Field(default="target", description="which tasks of the suite are learned together and scored")
    tasks: tuple[str, ...] = Field(default=(), description="of these; empty: all")
    methods: dict[str, Contender] = Field(
        default_factory=lambda: {name: Contender(method=name) for name in MULTITASK},
        validate_default=True,
        description="row of the table → method; a list of names of methods will do",
    )
    parameters: int | None = Field(
        default=None, ge=1, description="trained numbers over all tasks, the same for every row; null: lora of rank 16"
    )
    trials: int = Field(default=2, ge=1, description="the tuning budget: settings tried by every row")
    tuning_runs: int = Field(default=1, ge=1, description="seeds that judge the trials; others train the chosen one")
    seeds: int = Field(default=1, ge=1)
    limits: Limits = Limits()
    task_limits: dict[str, dict[Literal["train", "validation", "test"], int]] = Field(
        default_factory=dict, description="records of a task's splits that are used at all, by hash"
    )
    training: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)

    @field_validator("methods", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """Names alone are methods as they are; a row that names no method is called like one."""
        rows = dict.fromkeys(given) if isinstance(given, list | tuple) else given
        if not isinstance(rows, Mapping):
            return rows
        return {
            name: {"method": name, **(row or {})} if row is None or isinstance(row, Mapping) else row
            for name, row in rows.items()
        }

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if not self.methods:
            raise ValueError("`methods` is empty")
        for name in self.methods:
            grid = len(self.spec(name).grid)
            if self.trials_of(name) > grid:
                raise ValueError(f"{self.trials_of(name)} trials, but the grid of {name!r} holds {grid}")
        stray = sorted(set(flattened(self.training)) & set(OWN))
        if stray:
            raise ValueError(f"`training` cannot hold `{stray[0]}`: rows, `seeds` and `limits` say that")
        return self

    def spec(self, name: str) -> MethodSpec:
        """The method of a row: what it is, and the settings it tries."""
        row = self.methods[name]
        found = find_multitask(row.method)
        return found if row.rates is None else replace(found, grid=found.tried(row.rates))

    def trials_of(self, name: str) -> int:
        """How many settings a row tries."""
        return self.methods[name].trials or self.trials

    def settings(self, name: str, trial: int, seed: int, adapter: Mapping[str, Any]) -> MultitaskSettings:
        """One training of a row with this adapter. Raises TrainingError for unknown keys of `training`."""
        changes = flattened(self.training) | dict(self.spec(name).grid[trial])
        changes |= {"method": self.methods[name].method, "adapter": dict(adapter), "seed": seed}
        changes |= {"limit": self.limits.train or ALL_RECORDS, "validation_records": self.limits.validation}
        return changed(MultitaskSettings(), changes)

    def search_settings(self) -> SearchSettings:
        """How networks are searched. Raises TrainingError for unknown keys of `search`."""
        shared = {key: value for key, value in flattened(self.training).items() if key in ("target_reserve", "window")}
        shared |= {"limit": self.limits.train or ALL_RECORDS, "validation_records": self.limits.validation}
        return changed(SearchSettings(), {**shared, **flattened(self.search)})

    def records(self) -> Protocol:
        """The same tasks and limits as a protocol of single tasks, so that both read and score the same records."""
        room = {key: value for key, value in self.training.items() if key in ("target_reserve", "window")}
        return Protocol(
            suite=self.suite,
            targets=self.tasks,
            methods=(ZERO_SHOT,),
            shots=(FULL,),
            seeds=self.seeds,
            trials=self.trials,
            limits=self.limits,
            target_limits=self.task_limits,
            adapt=room,
        )


def load_multitask_protocol(path: Path | None, overrides: Mapping[str, Any]) -> MultitaskProtocol:
    """A protocol from a YAML file (or the defaults) with overrides on top (`None` is ignored).

    `methods` among the overrides are names: of the file's rows, or of methods. An `architecture` is a file's name,
    relative to the configuration. Raises TrainingError naming the file and the key.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    raw = read_mapping(path)
    raw = {**raw, "limits": {**(raw.get("limits") or {}), **(given.pop("limits", None) or {})}}
    steps = given.pop("steps", None)
    if steps is not None:
        training = {key: value for key, value in flattened(raw.get("training") or {}).items() if key != "loop.steps"}
        raw["training"] = {**training, "loop.steps": steps}
    rows = raw.get("methods") or dict.fromkeys(MULTITASK)
    rows = dict.fromkeys(rows) if isinstance(rows, list) else dict(rows)
    names = given.pop("methods", None)
    raw["methods"] = {name: rows.get(name) for name in (names or rows)}
    for name, row in raw["methods"].items():
        if isinstance(row, Mapping) and "architecture" in row:
            raw["methods"][name] = {**row, "architecture": read_network(row["architecture"], path)}
    return parse_multitask_protocol({**raw, **given}, str(path or "benchmark --multitask"))


def parse_multitask_protocol(raw: Mapping[str, Any], where: str = "benchmark --multitask") -> MultitaskProtocol:
    """A protocol from a mapping. Raises TrainingError listing every offending key."""
    return validated(MultitaskProtocol, raw, where)
