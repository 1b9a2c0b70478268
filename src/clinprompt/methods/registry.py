"""All methods by name: what each needs, how its settings differ from the defaults, and the grid it is tuned on.

Settings are named as in a configuration file, nested ones with a dot ("loop.learning_rate"), and laid on
`LearnSettings` and `AdaptSettings` by `training.settings.changed`. Every trained method has the same number of trials,
the likeliest first: a smaller budget takes the first few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clinprompt.errors import TrainingError, unknown_name

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class MethodSpec:
    """One method. `learn`: how its metaprompt is learned, as changes of `LearnSettings` (empty: as the library does);
    `adapt`: its changes of `AdaptSettings`; `grid`: further changes, one per tuning trial. `trains` is False for
    methods that only ask."""

    name: str
    summary: str
    trains: bool = True
    needs_metaprompt: bool = False
    learn: Overrides = field(default_factory=dict)
    adapt: Overrides = field(default_factory=dict)
    grid: tuple[Overrides, ...] = ()

    def tried(self, rates: Iterable[float]) -> tuple[Overrides, ...]:
        """A grid of these learning rates, for all that the method's own grid changes. Raises ValueError for one that is
        named twice."""
        given = tuple(rates)
        if len(set(given)) < len(given):
            raise ValueError(f"the grid of {self.name!r} names a rate twice")
        return tuple(dict.fromkeys(self.grid[0], rate) for rate in given)


def _rates(*rates: float) -> tuple[Overrides, ...]:
    return tuple({"loop.learning_rate": rate} for rate in rates)


# Published working values of soft prompts on LLaMA-type models are 0.01 to 0.03, on T5 0.3 (MPT: 0.3 and 0.4).
_PROMPT_RATES = (0.03, 0.1, 0.01, 0.3, 0.003)  # few examples want the low ones (docs/results.md)
_PROMPT_GRID = _rates(*_PROMPT_RATES)
_MPT_GRID: tuple[Overrides, ...] = tuple(
    {"loop.learning_rate": rate, "loop.vector_learning_rate": rate} for rate in _PROMPT_RATES
)
# P-tuning v2 (arXiv 2110.07602) works at 5e-3 to 3e-2.
_PREFIX_GRID = _rates(0.01, 0.03, 0.003, 0.1, 0.001)
# LoRA (arXiv 2106.09685) uses 2e-4 on GPT-3, 5e-4 on RoBERTa; models of few million weights want more. Our choice.
_LORA_GRID = _rates(0.001, 0.003, 0.0003, 0.01, 0.0001)
# Our choice: 8B models want the low end, small ones the high end.
_FULL_GRID = _rates(0.0001, 0.0003, 0.00003, 0.001, 0.00001)

OWN_LENGTH = 48
"""Own positions of a task where nothing else is said. Our choice: with a metaprompt of 16, four times its positions."""
_MPT: dict[str, Any] = {"method": "mpt", "mode": "full"}
_NO_DISTILLATION: dict[str, Any] = {"weight_logits": 0.0, "weight_hidden": 0.0, "start": "vocabulary"}


def _mpt(name: str, summary: str, learn: Overrides | None = None, **adapt: Any) -> MethodSpec:
    return MethodSpec(name, summary, needs_metaprompt=True, learn=learn or {}, adapt={**_MPT, **adapt}, grid=_MPT_GRID)


def _factors(**changes: Any) -> dict[str, Any]:
    return {f"factors.{name}": value for name, value in changes.items()}


_ALL = (
    MethodSpec("zero-shot", "the instruction alone", trains=False),
    MethodSpec(
        "constant", "one answer to every question, the best on the training examples; no model (ours)", trains=False
    ),
    MethodSpec("in-context", "solved examples before the instruction, nothing trained", trains=False),
    MethodSpec("pt", "prompt tuning from the vocabulary (arXiv 2104.08691)", adapt={"method": "pt"}, grid=_PROMPT_GRID),
    MethodSpec(
        "pt-practised",
        "prompt tuning from the nearest prompt of the backbone's pretraining (ours; embedded only)",
        adapt={"method": "pt", "initial": "practised"},
        grid=_PROMPT_GRID,
    ),
    MethodSpec(
        "spot",
        "prompt tuning from the best source's own tuned prompt, its teacher (SPoT, arXiv 2110.07904)",
        needs_metaprompt=True,
        learn={"students": False},
        adapt={"method": "spot", "start": "best"},
        grid=_PROMPT_GRID,
    ),
    _mpt("mpt", "multitask prompt tuning: P*, u and v are trained (arXiv 2303.02861, 2604.06650)"),
    _mpt("mpt-vectors", "MPT with P* frozen: only u and v are trained (ours)", mode="vectors"),
    _mpt("mpt-best", "MPT from the vectors of the source with the lowest loss on the training examples", start="best"),
    _mpt(
        "mpt-similar",
        "MPT from the mean of the source vectors, weighted by their losses on the training examples (ours)",
        start="similar",
    ),
    _mpt(
        "mpt-mixture",
        "MPT with u and v as gated mixtures of the source vectors beside vectors of their own (ours)",
        **_factors(mixture="residual"),
    ),
    _mpt(
        "mpt-gates",
        "MPT with u and v as gated mixtures of the source vectors alone (ours)",
        **_factors(mixture="gates"),
    ),
    _mpt(
        "mpt-rank2",
        "MPT with two vectors u and two v; the second pair starts without effect (ours)",
        **_factors(rank=2),
    ),
    _mpt("mpt-group", "MPT whose targets share one trained P*", mode="group"),
    _mpt(
        "mpt+",
        "the metaprompt's prompt as it is, with 48 trained positions of the task's own before it (ours)",
        mode="frozen",
        own_length=OWN_LENGTH,
    ),
    _mpt("mpt+trained", "mpt+ whose P*, u and v are trained as well (its ablation)", own_length=OWN_LENGTH),
    MethodSpec(
        "pt+",
        "prompt tuning with as many positions as mpt+: its control",
        adapt={"method": "pt", "own_length": OWN_LENGTH},
        grid=_PROMPT_GRID,
    ),
    _mpt(
        "mpt-vocabulary-start",
        "MPT whose P* starts at the vocabulary, as in the paper, also in a plan whose others start at the mean teacher",
        {"start": "vocabulary"},
    ),
    _mpt(
        "mpt-teacher-start",
        "MPT whose P* starts at the mean teacher, not at the vocabulary (ours)",
        {"start": "teachers"},
    ),
    _mpt("mpt-no-distillation", "no teachers at all: P* from the vocabulary, L_LM only", _NO_DISTILLATION),
    _mpt(
        "mpt-no-decomposition",
        "one shared prompt without u and v, distilled; targets train that prompt",
        {"decomposition": False},
        mode="shared",
    ),
    _mpt(
        "mpt-neither",
        "one shared prompt without u and v, from the vocabulary, L_LM only",
        {"decomposition": False, **_NO_DISTILLATION},
        mode="shared",
    ),
    _mpt("mpt-no-stochastic", "every batch mixes all sources instead of a random few", {"stochastic": False}),
    _mpt("mpt-logits-only", "distillation of logits, not of hidden states", {"weight_hidden": 0.0}),
    _mpt("mpt-hidden-only", "distillation of hidden states, not of logits", {"weight_logits": 0.0}),
    _mpt(
        "mpt-generated",
        "MPT whose P* a network produces while it is learned: PEML's generator at the input (ours)",
        {"architecture": {}},
    ),
    MethodSpec(
        "prefix",
        "trained keys and values before every layer (arXiv 2101.00190)",
        adapt={"method": "prefix"},
        grid=_PREFIX_GRID,
    ),
    MethodSpec(
        "lora",
        "low-rank updates of all linear layers (arXiv 2106.09685)",
        adapt={"method": "lora"},
        grid=_LORA_GRID,
    ),
    MethodSpec(
        "lora+prefix",
        "a plain prefix and LoRA trained in one loop: the control of peml",
        adapt={"method": "lora+prefix"},
        grid=_LORA_GRID,
    ),
    MethodSpec(
        "peml",
        "a prefix from a network and LoRA trained in one loop (arXiv 2605.14055)",
        adapt={"method": "peml"},
        grid=_LORA_GRID,
    ),
    MethodSpec(
        "full", "fine-tuning of all weights, one copy of the model per task", adapt={"method": "full"}, grid=_FULL_GRID
    ),
)
METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in _ALL}


# Of 0.001 and 0.003 every multi-task LoRA chose 0.003, of 0.01 and 0.03 the prefix 0.03 (validation losses of 6.6 M
# parameters): a first trial there, a second above it, then below. Our choice; large models want the low end.
_TOGETHER_GRID = _rates(0.003, 0.01, 0.001, 0.03, 0.006, 0.0003)
_TOGETHER_PREFIX_GRID = _rates(0.03, 0.1, 0.01, 0.3, 0.06, 0.003)


def _together(name: str, summary: str, grid: tuple[Overrides, ...] = _TOGETHER_GRID) -> MethodSpec:
    return MethodSpec(name, summary, learn={"method": name}, grid=grid)


MULTITASK: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        _together("lora", "one LoRA for all tasks (arXiv 2106.09685)"),
        _together("prefix", "one prefix for all tasks (arXiv 2101.00190)", _TOGETHER_PREFIX_GRID),
        _together("lora+prefix", "one plain prefix and one LoRA: the control of peml"),
        _together("peml", "one prefix from a network and one LoRA (arXiv 2605.14055)"),
        _together("mtl-lora", "LoRA with a matrix per task and up-projections that tasks mix (arXiv 2410.09437)"),
        _together("multilora", "parallel LoRAs, scaled element by element (arXiv 2311.11501)"),
        _together("c-poly", "skills that tasks choose from, and skills of their own (arXiv 2312.03248)"),
        _together("moelora", "LoRA experts, gated by the task (arXiv 2310.18339)"),
        _together("mixlora", "feed-forward blocks as top-2 mixtures of LoRA experts (arXiv 2404.15159)"),
        _together("loramoe", "LoRA experts in feed-forward layers, routed by the input (arXiv 2312.09979)"),
    )
}
"""One adapter for all tasks of a suite; `learn` and `grid` are changes of `training.multitask.MultitaskSettings`. All
have one grid but the prefix: rates of LoRA [O]; published are 2e-4 to 3e-4 for 7B models, 5e-5 for C-Poly."""


def find_method(name: str) -> MethodSpec:
    """The method of this name. Raises TrainingError with the nearest name and all known ones."""
    if name not in METHODS:
        raise TrainingError(unknown_name("method", name, list(METHODS)))
    return METHODS[name]


def find_multitask(name: str) -> MethodSpec:
    """The multi-task method of this name. Raises TrainingError with the nearest name and all known ones."""
    if name not in MULTITASK:
        raise TrainingError(unknown_name("multi-task method", name, list(MULTITASK)))
    return MULTITASK[name]
