"""How a training runs: every number that decides a result, as YAML that refuses unknown keys.

Defaults are for the embedded backbone on a laptop CPU. Published values are tagged as in METHODS: [P] stated by the
paper, [R] reported, [O] our choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from clinprompt.adapters.joint import Order
from clinprompt.architecture.network import Architecture
from clinprompt.backbone.presets import PromptPosition
from clinprompt.errors import TrainingError
from clinprompt.methods.mpt import Mixture
from clinprompt.prompts.artifact import Mode

S = TypeVar("S", bound=BaseModel)
Method = Literal["mpt", "pt", "spot", "prefix", "lora", "full", "lora+prefix", "peml"]


class LoopSettings(BaseModel):
    """One training: length, batch, learning rates and their schedule, validation, checkpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=16, ge=1, description="examples per step (per row for rows, in all for tasks)")
    learning_rate: float = Field(default=0.03, gt=0, description="of prompts and of P*")
    vector_learning_rate: float = Field(default=0.03, gt=0, description="of the task vectors u, v")
    warmup: float = Field(default=0.06, ge=0, lt=1, description="fraction of the steps")
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, ge=0, description="largest gradient norm per row and parameter; 0: off")
    evaluate_every: int = Field(default=0, ge=0, description="steps between validations; 0: keep the last values")
    patience: int = Field(default=0, ge=0, description="validations without a better loss before a row stops; 0: never")
    validation_limit: int = Field(default=64, ge=1, description="validation examples per task")
    micro_tokens: int = Field(
        default=8192,
        ge=64,
        description="padded tokens per forward pass; a CPU takes at most 512 a thread, for its cache",
    )
    checkpoint_every: int = Field(default=25, ge=1)

    def factor(self, step: int) -> float:
        """Learning-rate factor of a step: linear warm-up, then the schedule down to 0."""
        rise = max(1, round(self.warmup * self.steps))
        if step < rise:
            return (step + 1) / rise
        done = (step - rise) / max(1, self.steps - rise)
        if self.schedule == "linear":
            return 1 - done
        return 0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1.0


class LearnSettings(BaseModel):
    """The source side of MPT: teachers, then distillation into a decomposed metaprompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_length: int | None = Field(default=None, ge=1, description="l; default: the backbone preset's")
    rank: int = Field(default=1, ge=1, description="r of the task vectors; 1 in the papers")
    prompt_position: PromptPosition | None = None
    limit: int = Field(default=1000, ge=1, description="training records per source task (hashed sample)")
    validation_records: int = Field(default=64, ge=0, description="validation records per source task")
    target_reserve: int = Field(default=256, ge=8, description="tokens kept free for the answer")
    window: int | None = Field(default=None, ge=16, description="tokens of text per window in ner and relation tasks")
    teacher: LoopSettings = LoopSettings(steps=200, batch_size=8, evaluate_every=50)
    source: LoopSettings = LoopSettings(steps=600, batch_size=32, evaluate_every=100)
    weight_logits: float = Field(default=0.9, ge=0, description="λ of the logit term [R]")
    weight_hidden: float = Field(default=0.9, ge=0, description="λ of the hidden-state term [R]")
    temperature: float = Field(default=1.0, gt=0, description="τ; unpublished [O]")
    layers: tuple[int, ...] = Field(default=(-1,), description="layers whose states are matched [O]; the last is last")
    stochastic: bool = Field(default=True, description="stochastic task sampling [P]")
    most_tasks: int = Field(default=8, ge=2, description="κ, most tasks in a batch [O]")
    decomposition: bool = Field(
        default=True, description="task vectors u, v beside P*; without them one shared prompt learns all sources"
    )
    initial: str = Field(
        default="vocabulary",
        description="where teachers start: vocabulary, text: …, practised (each at the nearest of the embedded "
        "backbone's pretraining prompts), or the path of a prompt file",
    )
    start: Literal["vocabulary", "teachers"] = Field(
        default="vocabulary", description="P* starts where the teachers started [R], or at their mean [O]"
    )
    noise: float = Field(default=0.01, ge=0, description="of the unit task vectors, to break the tie [O]")
    architecture: Architecture | None = Field(
        default=None,
        description="a network that produces P* while it is learned (its length is the prompt's) [O]; none: P* itself",
    )
    students: bool = Field(
        default=True,
        description="distil the teachers into P*, u and v; false: the file holds the teachers' prompts as they are, "
        "the source prompts of SPoT, and nothing of the source stage counts",
    )
    seed: int = 0

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a network, with students, settings are described as before there was a choice: identities of runs
        hang on it."""
        found: dict[str, Any] = handler(self)
        if found.get("architecture", ...) is None:
            del found["architecture"]
        if found.get("students"):
            del found["students"]
        return found

    @model_validator(mode="after")
    def _last_layer_last(self) -> Self:
        if not self.layers or self.layers[-1] != -1:
            raise ValueError("`layers` must end with -1: logits are computed from the last layer")
        return self

    @model_validator(mode="after")
    def _teachers_as_they_are(self) -> Self:
        if not self.students and self.architecture is not None:
            raise ValueError("`students: false` keeps the teachers' prompts as they are: leave out `architecture`")
        return self


class ExtendSettings(LearnSettings):
    """New source tasks beside those of a metaprompt. Prompt length, position, rank, reserve, window and the start
    of P* and the vectors are the parent's whatever stands here, and no network produces P*. Our choice: the papers
    learn a metaprompt once."""

    keep: Literal["freeze", "replay"] = Field(
        default="freeze",
        description="freeze: P* and the old vectors stay, new vectors are learned; replay: all are trained on, the old "
        "tasks' training data with their prompts as teachers",
    )
    replay: float = Field(default=0.8, gt=0, lt=1, description="share of each batch that is old tasks' (keep: replay)")

    @model_validator(mode="after")
    def _with_students(self) -> Self:
        if not self.students:
            raise ValueError("`students: false` belongs to a file of teachers alone; an extension is distilled")
        return self


class LoraSettings(BaseModel):
    """LoRA (arXiv 2106.09685): `W x + alpha / rank · B A x`; A Kaiming-uniform, B zero, as PEFT starts them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=16.0, gt=0, description="scale is alpha / rank")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear", description="last parts of the names of linear layers, as q_proj; all but the output head"
    )


class JointSettings(BaseModel):
    """A prefix and LoRA together: `lora+prefix` and `peml` (arXiv 2605.14055)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Order = Field(
        default="parallel",
        description="parallel: one loop moves both (Algorithm 1); sequential: the prefix in the first half of the "
        "steps, LoRA in the second",
    )
    prefix_ratio: float | None = Field(
        default=None,
        gt=0,
        description="learning rate of the prefix over LoRA's; default: 10 for plain keys and values, 1 for a network "
        "[O]",
    )
    architecture: Architecture | None = Field(
        default=None, description="of peml: the network that produces the prefix; default: one tanh bottleneck"
    )


class FactorSettings(BaseModel):
    """What a target's u and v are made of and how sources are weighed, beyond the papers (ours)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int | None = Field(default=None, ge=1, description="of the target's u and v; default: the metaprompt's")
    mixture: Mixture | None = Field(
        default=None,
        description="gates: u and v are mixtures of the sources' vectors, and their gates are trained; residual: and "
        "vectors of their own beside them; default: vectors of their own alone",
    )
    gate_ratio: float = Field(default=10.0, gt=0, description="learning rate of gates over that of the vectors [O]")
    temperature: float = Field(
        default=0.1, gt=0, description="of start: similar, in nats: a source that much better weighs e times more [O]"
    )
    examples: int = Field(default=16, ge=1, description="of start: similar: training examples looked at, at most [O]")


class AdaptSettings(BaseModel):
    """The target side: which method, what it trains and where it starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method | None = Field(
        default=None, description="default: mpt with a metaprompt, pt (single-task prompt tuning) without"
    )
    mode: Mode = Field(
        default="full",
        description="of mpt: full: P*, u, v; vectors: u, v only; group: several targets share one P*; shared: P* only; "
        "frozen: positions of the task's own only",
    )
    own_length: int | None = Field(
        default=None,
        ge=1,
        description="of mpt: positions of the task's own before the metaprompt's; of pt: beyond the prompt length; "
        "default: none, 48 in mode frozen [O]",
    )
    start: str | None = Field(
        default=None,
        description="mpt, spot: mean or best of the sources, similar (their mean, weighted by loss), or a source "
        "task's name; default: mean for mpt, best for spot",
    )
    factors: FactorSettings | None = Field(
        default=None, description="of mpt; with start: similar of spot too; default: one pair of vectors, as published"
    )
    lora: LoraSettings = LoraSettings()
    prefix_length: int | None = Field(
        default=None,
        ge=1,
        description="of prefix and lora+prefix; default: the preset's prompt length; of peml: its architecture's",
    )
    joint: JointSettings | None = Field(default=None, description="of lora+prefix and peml; default: its defaults")
    initial: str = Field(
        default="vocabulary",
        description="where pt, prefix and own positions start: vocabulary, text: …, practised, or a prompt file",
    )
    shots: int | None = Field(default=None, ge=0, description="training examples; none: all of them")
    draw: int = Field(default=0, ge=0, description="which few-shot draw")
    judged: bool = Field(
        default=False,
        description="few-shot runs too report their loss on validation records (a benchmark's trials are chosen by it)",
    )
    limit: int | None = Field(default=None, ge=1, description="training records used when `shots` is not given")
    validation_records: int = Field(default=64, ge=0)
    target_reserve: int = Field(default=256, ge=8)
    window: int | None = Field(default=None, ge=16)
    loop: LoopSettings = LoopSettings(steps=200, batch_size=16, evaluate_every=25, patience=0)
    seed: int = 0

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not set is left out where it came later than the first runs: identities of runs hang on it."""
        found: dict[str, Any] = handler(self)
        for later in ("joint", "factors", "own_length"):
            if found.get(later, ...) is None:
                del found[later]
        return found


def read_mapping(path: Path | None) -> dict[str, Any]:
    """A YAML file that is a mapping; nothing for None. Raises TrainingError naming the file."""
    if path is None:
        return {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such configuration file") from None
    except yaml.YAMLError as error:
        raise TrainingError(f"{path}: not valid YAML: {error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise TrainingError(f"{path}:{line}: not UTF-8. Save the file as UTF-8.") from None
    if not isinstance(raw, dict):
        raise TrainingError(f"{path}: a configuration is a mapping of settings")
    return raw


def load_settings(kind: type[S], path: Path | None, overrides: dict[str, Any] | None = None) -> S:
    """Settings from a YAML file (or the defaults) with overrides on top (`None` values are ignored).

    Raises TrainingError naming the file, the key and the known keys.
    """
    raw = read_mapping(path)
    # On top of the defaults, so that changing one number of a nested section keeps its other defaults.
    merged = _merged(kind().model_dump(), raw)
    for key, value in (overrides or {}).items():
        _override(merged, key.split("."), value)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise TrainingError(f"{path or 'settings'}: {problems}. Known: {', '.join(kind.model_fields)}") from None


def changed(settings: S, overrides: Mapping[str, Any]) -> S:
    """Settings with some fields replaced, nested ones named with a dot. Raises TrainingError for unknown ones."""
    raw = settings.model_dump()
    for key, value in overrides.items():
        *sections, last = key.split(".")
        place = raw
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    try:
        return type(settings).model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise TrainingError(f"{problems}. Known: {', '.join(type(settings).model_fields)}") from None


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _override(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    if value is None:
        return
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
    raw[keys[-1]] = value
