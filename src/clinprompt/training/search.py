"""The outer search of PrefixNAS: prefix length, widths and depth by a tree-structured Parzen estimator (TPE), each of
its trials one relaxed search (`training.relaxing`). The first four points are random: a search of no more is a random
search.

Trials are compared by the validation loss of the chosen network as the search leaves it, not trained again. All of them
are paid for: `search.json` sums their seconds (training and validation) and the tokens they were trained on, and a
comparison has to charge them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from clinprompt.adapters.shared import SharedBank
from clinprompt.architecture.diagram import cell_svg
from clinprompt.architecture.discrete import save_architecture
from clinprompt.architecture.network import Architecture
from clinprompt.architecture.space import MOST_SLOTS
from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.training.batching import TaskExamples
from clinprompt.training.identity import run_name, task_digests
from clinprompt.training.learn import SourceTask, claim_folder, source_examples
from clinprompt.training.multitask import MultitaskSettings
from clinprompt.training.processes import Processes
from clinprompt.training.relaxing import Cell, Relaxed, RelaxSettings, continued, relax

if TYPE_CHECKING:
    import optuna

ARCHITECTURE, DIAGRAM, RECORD, STUDY = "architecture.yaml", "architecture.svg", "search.json", "study.log"
RANDOM_TRIALS = 4  # the first ones, before TPE has anything to go by; our choice
Progress = Callable[[str, int, int, float], None]  # trial, step, steps, loss


class SearchSettings(BaseModel):
    """The outer space, how many of its points are tried, and how each is searched. All our choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(default=8, ge=1)
    depths: tuple[int, ...] = Field(default=(1, 2, 3, 4), min_length=1, description="slots of the chain, 1 to 4")
    lengths: tuple[int, ...] = Field(default=(8, 16, 32), min_length=1, description="positions of the prefix")
    widths: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1, description="of the network's positions")
    hiddens: tuple[int, ...] = Field(default=(16, 32, 64), min_length=1, description="inside bottlenecks")
    relax: RelaxSettings = RelaxSettings()
    limit: int = Field(default=1000, ge=1, description="training records per task (hashed sample)")
    validation_records: int = Field(default=64, ge=1, description="validation records per task")
    target_reserve: int = Field(default=256, ge=8, description="tokens kept free for the answer")
    window: int | None = Field(default=None, ge=16, description="tokens of text per window in ner and relation tasks")
    seed: int = 0

    @field_validator("depths")
    @classmethod
    def _few(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if not all(1 <= depth <= MOST_SLOTS for depth in depths):
            raise ValueError(f"a chain has 1 to {MOST_SLOTS} slots")
        return depths

    @field_validator("lengths", "widths", "hiddens")
    @classmethod
    def _positive(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if min(sizes) < 1:
            raise ValueError("sizes are at least 1")
        return sizes


@dataclass(frozen=True)
class Searched:
    """The chosen network, one record per finished trial, and what all of them cost together."""

    architecture: Architecture
    trials: list[dict[str, Any]]
    best: int
    seconds: float
    tokens: int


def search(
    backbone: Backbone,
    sources: Sequence[SourceTask],
    settings: SearchSettings,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> Searched:
    """Search on the tasks into `folder`: architecture.yaml, architecture.svg, search.json; the same call continues.

    Raises TrainingError without Optuna, for tasks too small to be halved or a folder that holds another run,
    BackboneError for encoder-decoder models of other types than T5's.
    """
    optuna = _optuna()
    examples, run = _prepared(backbone, sources, settings)
    claim_folder(folder, run, settings, Processes())
    study = _study(optuna, folder / STUDY)
    _again(optuna, study)
    while (index := len(done := _finished(optuna, study))) < settings.trials:
        # A sampler of its own per trial: an interrupted search asks as an uninterrupted one would have.
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed * 100_003 + index, n_startup_trials=RANDOM_TRIALS)
        trial = study.ask()
        cell = _asked(trial, settings)
        # A point that is asked again starts elsewhere: the same search twice would tell nothing.
        seed = settings.seed + settings.relax.seed + sum(t.params == trial.params for t in done)
        found = _trial(backbone, examples, settings, cell, seed, folder, index, run, progress)
        for name, value in _record(found, index, seed).items():
            trial.set_user_attr(name, _finite(value))
        if math.isfinite(found.discrete):
            study.tell(trial, found.discrete)
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return _concluded(optuna, study, sources, settings, folder)


def best_bank(
    backbone: Backbone, sources: Sequence[SourceTask], settings: SearchSettings, folder: Path, searched: Searched
) -> SharedBank:
    """The best trial's network and LoRA with the weights they have from the search, read from its checkpoint."""
    examples, run = _prepared(backbone, sources, settings)
    chosen, seed = searched.architecture, int(searched.trials[searched.best]["seed"])
    cell = Cell(len(chosen.operations), chosen.width, chosen.hidden, chosen.length)
    found = _trial(backbone, examples, settings, cell, seed, folder, searched.best, run, None)
    return continued(found, len(sources))


def concluded_trials(folder: Path) -> int:
    """How many trials the last conclusion in this folder was drawn from; 0 before the first."""
    record = folder / RECORD
    return len(json.loads(record.read_text(encoding="utf-8"))["trials"]) if record.is_file() else 0


def search_examples(backbone: Backbone, sources: Sequence[SourceTask], settings: SearchSettings) -> list[TaskExamples]:
    """Examples that fit beside the longest prefix, so that all trials see the same."""
    shared = {name: getattr(settings, name) for name in ("limit", "validation_records", "target_reserve")}
    how = MultitaskSettings(method="peml", window=settings.window or backbone.preset.window, **shared)
    return [source_examples(backbone, source, how, max(settings.lengths), "front") for source in sources]


# -- trials ----------------------------------------------------------------------------------------------


def _prepared(
    backbone: Backbone, sources: Sequence[SourceTask], settings: SearchSettings
) -> tuple[list[TaskExamples], str]:
    """The examples of all trials, and the run's identity."""
    names = [source.task.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise TrainingError("a search needs at least one task, and each of them once")
    examples = search_examples(backbone, sources, settings)
    described = settings.model_dump(mode="json")
    del described["trials"]  # more trials continue the same search
    described["relax"]["loop"].pop("checkpoint_every")
    return examples, run_name(backbone, [described, task_digests(examples)])


def _trial(
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    settings: SearchSettings,
    cell: Cell,
    seed: int,
    folder: Path,
    index: int,
    run: str,
    progress: Progress | None,
) -> Relaxed:
    name = f"trial {index + 1} of {settings.trials}"
    return relax(
        backbone,
        examples,
        cell,
        settings.relax.model_copy(update={"seed": seed}),
        checkpoint=folder / f"trial-{index + 1:03d}.checkpoint.safetensors",
        run=f"{run} {cell} {seed}",
        progress=None if progress is None else lambda step, steps, loss: progress(name, step, steps, loss),
    )


def _asked(trial: optuna.trial.Trial, settings: SearchSettings) -> Cell:
    return Cell(
        depth=trial.suggest_categorical("depth", settings.depths),
        width=trial.suggest_categorical("width", settings.widths),
        hidden=trial.suggest_categorical("hidden", settings.hiddens),
        length=trial.suggest_categorical("length", settings.lengths),
    )


def _record(found: Relaxed, index: int, seed: int) -> dict[str, Any]:
    return {
        "trial": index + 1,
        "seed": seed,
        "architecture": found.architecture.model_dump(mode="json", exclude={"search"}),
        "relaxed_loss": found.relaxed,
        "discrete_loss": found.discrete,
        "gap": found.gap,
        "entropies": found.entropies,
        "weights": found.weights,
        "seconds": found.seconds,
        "tokens": found.tokens,
    }


def _finite(value: Any) -> Any:
    """What is no number becomes None, as JSON has it."""
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- Optuna ----------------------------------------------------------------------------------------------


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise TrainingError(
            "searching lengths and widths needs Optuna: pip install 'clinprompt[search]'. An architecture that was "
            "found before needs nothing: --architecture FILE."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, path: Path) -> optuna.study.Study:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study: Any = optuna.create_study(storage=storage, study_name="prefix", direction="minimize", load_if_exists=True)
    return study


def _again(optuna: Any, study: optuna.study.Study) -> None:
    """A trial that was interrupted is asked again with the values it had; its checkpoint continues."""
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def _finished(optuna: Any, study: optuna.study.Study) -> list[Any]:
    states = optuna.trial.TrialState
    return list(study.get_trials(states=(states.COMPLETE, states.PRUNED)))


# -- results ---------------------------------------------------------------------------------------------


def _concluded(
    optuna: Any, study: optuna.study.Study, sources: Sequence[SourceTask], settings: SearchSettings, folder: Path
) -> Searched:
    trials = sorted((dict(t.user_attrs) for t in _finished(optuna, study)), key=lambda t: int(t["trial"]))
    trials = trials[: settings.trials]
    valid = [t for t in trials if t["discrete_loss"] is not None]
    if not valid:
        raise TrainingError("no trial ended with a finite loss: lower relax.loop.learning_rate.")
    best = min(valid, key=lambda t: float(t["discrete_loss"]))
    seconds, tokens = sum(float(t["seconds"]) for t in trials), sum(int(t["tokens"]) for t in trials)
    note = {
        "tasks": [source.task.name for source in sources],
        "rule": settings.relax.rule,
        "trials": len(trials),
        "relaxed_loss": round(best["relaxed_loss"], 4),
        "discrete_loss": round(best["discrete_loss"], 4),
        "gap": round(best["gap"], 4),
        "entropies": [round(value, 4) for value in best["entropies"]],
        "seconds": round(seconds, 1),
        "tokens": tokens,
    }
    architecture = Architecture.model_validate({**best["architecture"], "search": note})
    save_architecture(architecture, folder / ARCHITECTURE)
    names = settings.relax.operations
    _write(folder / DIAGRAM, cell_svg(architecture, best["weights"], names, best["entropies"]))
    record = {"best": best["trial"], "seconds": seconds, "tokens": tokens, "operations": list(names), "trials": trials}
    _write(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return Searched(architecture, trials, int(best["trial"]) - 1, seconds, tokens)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
