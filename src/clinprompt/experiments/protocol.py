"""The protocol of a comparison as data: which methods, targets, shots, draws and seeds, and one tuning budget for all.

Few-shot draws come from `training.few_shot.draw_shots` and depend on the task, the draw and the seed only, so every
method trains on the same records. Hyper-parameters are chosen among the first `trials` entries of each method's own
grid, or of the rates that the protocol gives it, by loss on the target's validation split, never on test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator, model_validator

from clinprompt.architecture.discrete import load_architecture
from clinprompt.architecture.network import Architecture
from clinprompt.backbone.presets import BackbonePreset
from clinprompt.errors import TrainingError
from clinprompt.methods.registry import METHODS, MethodSpec, Overrides, find_method
from clinprompt.training.settings import AdaptSettings, LearnSettings, changed, read_mapping

FULL: Literal["full"] = "full"
Shots = int | Literal["full"]
ZERO_SHOT = "zero-shot"
IN_CONTEXT = "in-context"
CONSTANT = "constant"
DEFAULT_METHODS = ("constant", "zero-shot", "pt", "mpt")
DEFAULT_SHOTS: tuple[Shots, ...] = (0, 1, 5, 10, 20, FULL)
GENERATED = "architecture"
"""The setting of a metaprompt that a network produces."""
BY_METHOD = ("method_seeds", "method_draws", "grids", "few_shot_grids")
"""Fields of a protocol that name methods."""
_RATES = ("learning_rate", "vector_learning_rate")
M = TypeVar("M", bound=BaseModel)


class Limits(BaseModel):
    """Records used per target, each a sample chosen by hash of the record ids; null: all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: int | None = Field(default=400, ge=1, description="for shots `full`; draws are made from all records")
    validation: int = Field(default=32, ge=1, description="what trials are judged on")
    test: int | None = Field(default=None, ge=1)


class Protocol(BaseModel):
    """Everything that decides a sweep but the backbone and the data folder. `learn`, `adapt`, `few_shot` and
    `per_shots` hold changes of `LearnSettings` and `AdaptSettings`, nested or with dots."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    targets: tuple[str, ...] = Field(default=(), description="of the suite's targets; empty: all")
    methods: tuple[str, ...] = DEFAULT_METHODS
    few_shot_methods: tuple[str, ...] | None = Field(
        default=None, description="of the methods, those run with numbers of shots; null: all"
    )
    shots: tuple[Shots, ...] = DEFAULT_SHOTS
    draws: int = Field(default=10, ge=1, description="few-shot draws per number of shots")
    seeds: int = Field(default=3, ge=1, description="seeds of shots `full`, and metaprompts per variant")
    method_seeds: dict[str, int] = Field(default_factory=dict, description="fewer seeds of `full` for some methods")
    method_draws: dict[str, int] = Field(default_factory=dict, description="fewer draws for some methods")
    few_shot_seeds: int = Field(default=1, ge=1, description="seeds per draw (a seed changes the draw too)")
    trials: int = Field(default=3, ge=1, description="the tuning budget: settings tried by every trained method")
    grids: dict[str, tuple[PositiveFloat, ...]] = Field(
        default_factory=dict,
        description="learning rates that a method tries, in this order, instead of those of its own grid",
    )
    few_shot_grids: dict[str, tuple[PositiveFloat, ...]] = Field(
        default_factory=dict, description="the same for numbers of shots; a method that is not named: as in `grids`"
    )
    tuning_runs: int = Field(
        default=3,
        ge=1,
        description="runs (draws, or seeds) per target and shots that judge the trials; others train the chosen one",
    )
    choose_on: Literal["target", "sources"] = Field(
        default="target",
        description="whose validation records judge the trials: the target's; or those of some source tasks, on which "
        "the trials are then trained, once for all targets",
    )
    choose_by: Literal["loss", "score"] = Field(
        default="loss",
        description="what of those validation records judges: their loss, or the headline metric of their answers "
        "(the loss among equals), which costs answering them once per trial",
    )
    choose_sources: int = Field(default=3, ge=1, description="how many sources, with choose_on: sources")
    limits: Limits = Limits()
    target_limits: dict[str, dict[Literal["train", "validation", "test"], int]] = Field(
        default_factory=dict,
        description="records of a target's splits that are used at all, by hash; draws are made from these",
    )
    learn: dict[str, Any] = Field(default_factory=dict)
    generator: Architecture | None = Field(
        default=None,
        description="the network of mpt-generated, from a file; what its search cost is charged. Null: one tanh "
        "bottleneck",
    )
    adapt: dict[str, Any] = Field(default_factory=dict)
    few_shot: dict[str, Any] = Field(default_factory=dict, description="changes of `adapt` for numbers of shots")
    per_shots: dict[int, dict[str, Any]] = Field(default_factory=dict, description="further changes for one number")

    @field_validator("methods", "few_shot_methods")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        unknown = [name for name in names if name not in METHODS]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; known: {', '.join(METHODS)}")
        if len(set(names)) < len(names):
            raise ValueError("a method is listed twice")
        return names

    @field_validator("shots")
    @classmethod
    def _sensible(cls, shots: tuple[Shots, ...]) -> tuple[Shots, ...]:
        if not shots or len(set(shots)) < len(shots) or any(isinstance(k, int) and k < 0 for k in shots):
            raise ValueError("shots are different numbers from 0, and `full`")
        return shots

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field in ("few_shot_methods", *BY_METHOD):
            stray = sorted(set(getattr(self, field) or ()) - set(self.methods))
            if stray:
                raise ValueError(f"`{field}` names {stray[0]!r}, which is not among `methods`")
        if self.generator and not any(GENERATED in METHODS[name].learn for name in self.methods):
            raise ValueError("`generator` belongs to mpt-generated, which is not among `methods`")
        unused = sorted(set(self.per_shots) - set(self.shots))
        if unused:
            raise ValueError(f"`per_shots` names {unused[0]} shots, which are not among `shots`")
        return self

    @model_validator(mode="after")
    def _grids_suffice(self) -> Self:
        given = {*self.grids, *self.few_shot_grids}
        for spec in self.specs:
            if spec.name in given and not spec.trains:
                raise ValueError(f"{spec.name!r} trains nothing: it tries no rates")
            for grid in (self.grid(spec, FULL), self.grid(spec, 1)):
                if spec.trains and len(grid) < self.trials:
                    whose = " in `grids` or `few_shot_grids`" if spec.name in given else ""
                    raise ValueError(
                        f"{self.trials} trials, but the grid of {spec.name!r}{whose} holds {len(grid)}; "
                        "every method gets the same number"
                    )
        return self

    @property
    def specs(self) -> tuple[MethodSpec, ...]:
        return tuple(find_method(name) for name in self.methods)

    def grid(self, spec: MethodSpec, shots: Shots) -> tuple[Overrides, ...]:
        """The settings that a method may try at these shots, the likeliest first: its own, or the given rates for all
        that its own grid changes."""
        few = self.few_shot_grids if shots != FULL else {}
        rates = few.get(spec.name, self.grids.get(spec.name))
        return spec.grid if rates is None else spec.tried(rates)

    def learn_settings(self, spec: MethodSpec, preset: BackbonePreset, seed: int) -> LearnSettings:
        """How the metaprompt of a method is learned: defaults, the preset's rates, `learn`, the method's variant."""
        given = flattened(self.learn)
        rates = {f"{stage}.{rate}": getattr(preset, rate) for stage in ("teacher", "source") for rate in _RATES}
        variant = dict(spec.learn)
        if network := self.network(spec):
            variant[GENERATED] = network.bare().model_dump(mode="json")
        return changed(LearnSettings(), {**rates, **given, **variant, "seed": seed})

    def network(self, spec: MethodSpec) -> Architecture | None:
        """The given network of a method that has one; None: the method's own, or none."""
        return self.generator if GENERATED in spec.learn else None

    def adapt_settings(
        self, spec: MethodSpec, preset: BackbonePreset, shots: Shots, trial: int, *, draw: int = 0, seed: int = 0
    ) -> AdaptSettings:
        """One run of a method: defaults, the preset's rates, `adapt`, changes for these shots, the method, the trial.

        A few-shot run is judged once, at its end: nothing is kept early by validation.
        """
        changes = {f"loop.{rate}": getattr(preset, rate) for rate in _RATES}
        changes |= {"limit": self.limits.train, "validation_records": self.limits.validation}
        changes |= flattened(self.adapt)
        if shots != FULL:
            changes |= flattened(self.few_shot) | flattened(self.per_shots.get(int(shots), {}))
            changes |= {"shots": shots, "draw": draw, "judged": True, "loop.patience": 0}
        grid = self.grid(spec, shots)
        trial_changes = grid[trial] if grid else {}
        settings = changed(AdaptSettings(), {**changes, **spec.adapt, **trial_changes, "seed": seed})
        if shots == FULL:
            return settings
        return changed(settings, {"loop.evaluate_every": settings.loop.steps})

    def shots_of(self, spec: MethodSpec) -> tuple[Shots, ...]:
        """At how many shots a method runs. The instruction alone is one cell at 0 shots; examples in the context are
        a number of them. The best constant answer is found in any number of examples."""
        if spec.name == ZERO_SHOT:
            return (0,)
        few = self.few_shot_methods is None or spec.name in self.few_shot_methods
        whole = spec.trains or spec.name == CONSTANT
        return tuple(k for k in self.shots if (whole if k == FULL else few and (spec.trains or k > 0)))

    def runs(self, spec: MethodSpec, shots: Shots) -> list[tuple[int, int]]:
        """(draw, seed) of every run of a method at these shots. At 0 shots there is nothing to draw."""
        if spec.name == ZERO_SHOT or (spec.name == CONSTANT and shots == FULL):
            return [(0, 0)]
        if shots == FULL:
            return [(0, seed) for seed in range(min(self.seeds, self.method_seeds.get(spec.name, self.seeds)))]
        if shots == 0:
            return [(0, seed) for seed in range(self.few_shot_seeds)]
        draws = min(self.draws, self.method_draws.get(spec.name, self.draws))
        return [(draw, seed) for seed in range(self.few_shot_seeds) for draw in range(draws)]


def flattened(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested changes with dotted names: ``{"loop": {"steps": 5}}`` → ``{"loop.steps": 5}``."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def load_protocol(path: Path | None, overrides: Mapping[str, Any]) -> Protocol:
    """A protocol from a YAML file (or the defaults) with overrides on top (`None` is ignored). Where an override leaves
    out methods or shots, or names another suite, what the file says about those is left out too. `generator` is a
    file's name, relative to the configuration.

    Raises TrainingError naming the file and the key.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    raw = narrowed(read_mapping(path), given)
    merged = {**raw, "limits": {**(raw.get("limits") or {}), **(given.pop("limits", None) or {})}}
    steps = given.pop("steps", None)
    if "generator" in merged:
        merged["generator"] = read_network(merged["generator"], path)
    return parse_protocol(
        {**(merged if steps is None else with_steps(merged, steps)), **given}, str(path or "benchmark")
    )


def read_network(given: Any, config: Path | None) -> Any:
    """A network that a configuration names by its file, as a mapping; anything else as it is."""
    if not isinstance(given, str):
        return given
    return load_architecture((config.parent if config else Path()) / given).model_dump(mode="json")


def narrowed(raw: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A file's mapping without what it says about methods and shots that the overrides leave out, or about the targets
    of a suite that they replace. What names a method or a number that the file itself does not have stays, and is
    refused later."""
    found = dict(raw)
    if given.get("suite", raw.get("suite")) != raw.get("suite"):
        found = {key: value for key, value in found.items() if key not in ("targets", "target_limits")}
    methods = set(raw.get("methods") or ()) - set(given.get("methods", raw.get("methods") or ()))
    shots = set(raw.get("shots") or ()) - set(given.get("shots", raw.get("shots") or ()))
    if found.get("few_shot_methods"):
        found["few_shot_methods"] = [name for name in found["few_shot_methods"] if name not in methods]
    for key, gone in (*((key, methods) for key in BY_METHOD), ("per_shots", shots)):
        if found.get(key):
            found[key] = {name: value for name, value in found[key].items() if name not in gone}
    if found.get("generator") and any(GENERATED in METHODS[name].learn for name in methods & METHODS.keys()):
        del found["generator"]
    return found


def with_steps(raw: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """A protocol's mapping in which every training has this many steps."""

    def without(changes: Any) -> dict[str, Any]:
        return {key: value for key, value in flattened(changes or {}).items() if key != "loop.steps"}

    adapt = {**without(raw.get("adapt")), "loop.steps": steps}
    per_shots = {shots: without(changes) for shots, changes in (raw.get("per_shots") or {}).items()}
    return {**raw, "adapt": adapt, "few_shot": without(raw.get("few_shot")), "per_shots": per_shots}


def parse_protocol(raw: Mapping[str, Any], where: str = "benchmark") -> Protocol:
    """A protocol from a mapping. Raises TrainingError listing every offending key."""
    return validated(Protocol, raw, where)


def validated(kind: type[M], raw: Mapping[str, Any], where: str) -> M:
    """A protocol of this kind from a mapping. Raises TrainingError listing every offending key and the known ones."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"`{'.'.join(map(str, e['loc'])) or '(whole)'}`: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise TrainingError(f"{where}: {problems}. Known: {', '.join(kind.model_fields)}") from None


def shots_of(text: str) -> tuple[Shots, ...]:
    """``0,1,5,full`` → (0, 1, 5, "full"). Raises TrainingError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part == FULL or part.isdigit() for part in parts):
        raise TrainingError(f"--shots {text}: numbers from 0 and `full`, with commas: 0,1,5,10,20,full.")
    found: list[Shots] = [FULL if part == FULL else int(part) for part in parts]
    return tuple(found)
