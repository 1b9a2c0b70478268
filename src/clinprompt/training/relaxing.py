"""One relaxed search for the network of a prefix: first-order and bilevel (DARTS, arXiv 1806.09055, §2.3, ξ = 0).

Every step moves the weights (network and LoRA together, as PEML's Algorithm 1 trains them) by a batch of one half of
the training examples, then the architecture logits by a batch of the other half. All candidates of a slot are trained
at once; at the end the largest logit of each slot is chosen, and the loss on validation examples is measured before
and after that choice: their difference is the gap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from clinprompt.adapters.joint import JointBank
from clinprompt.adapters.lora import LoraBank, lora_bank
from clinprompt.adapters.network import NetworkBank, solved_bank
from clinprompt.adapters.shared import SharedBank
from clinprompt.architecture.discrete import argmax_operations, pruned
from clinprompt.architecture.network import Architecture
from clinprompt.architecture.relaxed import Relaxation, Rule, annealed, gumbel, one_hot
from clinprompt.architecture.space import OPERATIONS
from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.methods.peml import rate_factor
from clinprompt.prompts.initialisation import initial_prompts
from clinprompt.training.batching import TaskExamples
from clinprompt.training.checkpoint import load_checkpoint, prefixed, save_checkpoint, unprefixed
from clinprompt.training.interrupts import undivided
from clinprompt.training.loop import Problem, accumulate, validation_losses
from clinprompt.training.optimiser import RowAdamW
from clinprompt.training.processes import Processes
from clinprompt.training.sampling import TaskSampler, stream
from clinprompt.training.settings import LoopSettings, LoraSettings

LOGIT_BETAS, LOGIT_DECAY = (0.5, 0.999), 1e-3  # DARTS, §A.1


class RelaxSettings(BaseModel):
    """How one relaxed search trains. All values are our choice where no source is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operations: tuple[str, ...] = Field(default=tuple(OPERATIONS), min_length=1, description="candidates of every slot")
    rule: Rule = Field(default="softmax", description="softmax, gumbel or straight-through")
    temperature: float = Field(default=1.0, gt=0, description="τ at the first step")
    end_temperature: float = Field(default=0.1, gt=0, description="τ at the last step")
    architecture_rate: float = Field(default=0.03, gt=0, description="learning rate of the logits")
    prefix_ratio: float | None = Field(default=None, gt=0, description="learning rate of the network over LoRA's")
    lora: LoraSettings = LoraSettings()
    initial: str = Field(default="vocabulary", description="the prompt at whose keys and values the prefix starts")
    loop: LoopSettings = LoopSettings(steps=150, batch_size=16, learning_rate=0.001)
    stochastic: bool = Field(default=True, description="stochastic task sampling")
    most_tasks: int = Field(default=8, ge=2, description="most tasks in a batch")
    seed: int = 0

    @field_validator("operations")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _all_known(names)


def _all_known(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"each of {', '.join(OPERATIONS)} at most once, not {', '.join(unknown or names)}")
    return names


@dataclass(frozen=True)
class Cell:
    """What the outer search decides: slots, widths, and the prefix's length."""

    depth: int
    width: int
    hidden: int
    length: int


@dataclass
class Relaxed:
    """What a relaxed search ended with. `relaxed`, `discrete`: mean validation losses over the tasks, before and after
    the choice; `weights` (slots, candidates): softmax of the logits; `seconds` is what it cost, validation included,
    `tokens` what it was trained on. What was done after the last checkpoint of a killed process is in neither."""

    architecture: Architecture
    relaxed: float
    discrete: float
    entropies: list[float]
    weights: list[list[float]]
    seconds: float
    tokens: int
    bank: SharedBank

    @property
    def gap(self) -> float:
        return self.discrete - self.relaxed


@dataclass
class _State:
    bank: SharedBank
    relaxation: Relaxation
    weights: RowAdamW
    logits: RowAdamW
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def relax(
    backbone: Backbone,
    examples: Sequence[TaskExamples],
    cell: Cell,
    settings: RelaxSettings,
    *,
    checkpoint: Path | None = None,
    run: str = "",
    progress: Callable[[int, int, float], None] | None = None,
) -> Relaxed:
    """Search one cell. With `checkpoint`, a run with the same identity continues where it was interrupted.

    A search whose loss stops being a number ends there, with losses that are none: another cell may do better.
    Raises TrainingError for tasks with fewer than two training examples, or none of which has validation examples.
    """
    first, second = halves(examples, settings.seed)
    state = _start(backbone, len(examples), cell, settings)
    if checkpoint is not None:
        _resume(state, checkpoint, run)
    problems = [_problem(state.bank, part, settings, side) for side, part in enumerate((first, second))]
    began, before, whole = time.monotonic(), state.seconds, True
    try:
        while state.step < settings.loop.steps:
            with undivided():
                whole = False
                loss = _step(backbone, problems, settings, state)
                state.step += 1
                state.seconds = before + time.monotonic() - began
                whole = True
                if checkpoint is not None and state.step % settings.loop.checkpoint_every == 0:
                    _save(state, checkpoint, run)
            if progress:
                progress(state.step, settings.loop.steps, loss)
            if not math.isfinite(loss):
                break
    except KeyboardInterrupt:
        if checkpoint is not None and whole:  # a divided step is taken again from the last checkpoint
            _save(state, checkpoint, run)
        raise
    if checkpoint is not None:
        _save(state, checkpoint, run)
    began, found = time.monotonic(), _measured(backbone, problems[0], settings, cell, state)
    found.seconds += time.monotonic() - began
    return found


def halves(examples: Sequence[TaskExamples], seed: int) -> tuple[list[TaskExamples], list[TaskExamples]]:
    """Training examples of every task in two halves by a shuffle of its own: for weights, and for the architecture."""
    parts: tuple[list[TaskExamples], list[TaskExamples]] = ([], [])
    for task in examples:
        if len(task.train) < 2:
            raise TrainingError(
                f"task {task.name}: {len(task.train)} training example; a search needs at least two, one for the "
                "weights and one for the architecture. Leave the task out, or raise `limit`."
            )
        order = stream(seed, "halves", task.name).permutation(len(task.train)).tolist()
        middle = (len(order) + 1) // 2
        for part, indices in zip(parts, (order[:middle], order[middle:]), strict=True):
            part.append(TaskExamples(task.name, [task.train[i] for i in indices], task.validation))
    if not any(task.validation for task in examples):
        raise TrainingError("none of the tasks has validation records, so searches cannot be compared. Add some.")
    return parts


def continued(found: Relaxed, tasks: int) -> SharedBank:
    """The chosen network with the weights it has from the search, and LoRA with its own, to be trained on."""
    joint = found.bank.bank
    assert isinstance(joint, JointBank) and isinstance(joint.prefix, NetworkBank)
    relaxed, lora = joint.prefix, joint.lora
    parameters = pruned(relaxed.values(), found.architecture.operations)
    network = NetworkBank(parameters, found.architecture.slots, relaxed.hidden, relaxed.shape)
    return SharedBank(JointBank(network, LoraBank(lora.values(), lora.alpha)), tasks)


# -- steps -----------------------------------------------------------------------------------------------


def _start(backbone: Backbone, tasks: int, cell: Cell, settings: RelaxSettings) -> _State:
    names = settings.operations
    logits = nn.Parameter(torch.zeros(cell.depth, len(names), device=backbone.device))
    relaxation = Relaxation(logits, settings.rule, settings.temperature)
    prompts = initial_prompts(backbone, cell.length, settings.initial, [settings.seed])
    widths = (cell.width, cell.hidden)
    network = solved_bank(backbone, prompts, [names] * cell.depth, widths, [settings.seed], relaxation)
    lora = settings.lora
    adapter = lora_bank(backbone, [settings.seed], rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    bank = SharedBank(JointBank(network, adapter), tasks)
    loop = settings.loop
    return _State(
        bank,
        relaxation,
        RowAdamW(bank.trainable(), weight_decay=loop.weight_decay, clip=loop.clip),
        RowAdamW({"logits": logits}, betas=LOGIT_BETAS, weight_decay=LOGIT_DECAY, clip=loop.clip),
    )


def _problem(bank: SharedBank, part: Sequence[TaskExamples], settings: RelaxSettings, side: int) -> Problem:
    names, sizes = [task.name for task in part], [len(task.train) for task in part]
    seed = 2 * settings.seed + side
    return Problem(
        bank=bank,
        tasks=part,
        sampler=TaskSampler(names, sizes, settings.loop.batch_size, seed, settings.most_tasks, settings.stochastic),
        rates={},
        row_tasks=list(range(len(part))),
        normalise="batch",
        select="bank",
    )


def _step(backbone: Backbone, problems: Sequence[Problem], settings: RelaxSettings, state: _State) -> float:
    """Weights on the first half, then logits on the second; returns the first loss."""
    relaxation, loop = state.relaxation, settings.loop
    done = state.step / max(1, loop.steps - 1)
    relaxation.temperature = annealed(settings.temperature, settings.end_temperature, done)
    if settings.rule != "softmax":
        noise = gumbel(relaxation.logits.shape, settings.seed, state.step)
        relaxation.noise = noise.to(relaxation.logits.device)
    factor, parameters = loop.factor(state.step), state.weights.parameters
    rate = loop.learning_rate * factor
    rates = {n: torch.full((len(p),), rate * _ratio(n, settings), device=p.device) for n, p in parameters.items()}
    loss = _gradients(backbone, problems[0], settings, state)
    state.weights.step(rates, _everything(parameters))
    _gradients(backbone, problems[1], settings, state)
    speed = torch.full((len(relaxation.logits),), settings.architecture_rate, device=relaxation.logits.device)
    state.logits.step({"logits": speed}, _everything(state.logits.parameters))
    relaxation.noise = None
    return loss


def _gradients(backbone: Backbone, problem: Problem, settings: RelaxSettings, state: _State) -> float:
    """Gradients of one batch for weights and logits; only the one that steps next reads them."""
    state.weights.zero_grad()
    state.logits.zero_grad()
    picks = problem.sampler.step(state.step, range(len(problem.tasks)))
    losses = accumulate(backbone, problem, settings.loop, picks, Processes())
    state.tokens += sum(len(problem.tasks[p.task].train[p.example].ids) + problem.bank.length for p in picks)
    return float(losses.sum())


def _ratio(name: str, settings: RelaxSettings) -> float:
    return rate_factor(name, Architecture(), settings.prefix_ratio)


def _everything(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: torch.ones(len(p), dtype=torch.bool, device=p.device) for name, p in parameters.items()}


def _measured(backbone: Backbone, problem: Problem, settings: RelaxSettings, cell: Cell, state: _State) -> Relaxed:
    relaxation = state.relaxation
    relaxation.temperature = settings.end_temperature
    soft = _loss(backbone, problem, settings)
    relaxation.fixed = one_hot(relaxation.logits.detach())
    hard = _loss(backbone, problem, settings)
    relaxation.fixed = None
    logits = relaxation.logits.detach()
    names = argmax_operations([settings.operations] * cell.depth, logits)
    return Relaxed(
        Architecture(operations=names, width=cell.width, hidden=cell.hidden, length=cell.length),
        soft,
        hard,
        relaxation.entropies(),
        torch.softmax(logits, dim=-1).tolist(),
        state.seconds,
        state.tokens,
        state.bank,
    )


def _loss(backbone: Backbone, problem: Problem, settings: RelaxSettings) -> float:
    rows = list(range(len(problem.tasks)))
    losses = validation_losses(backbone, problem, settings.loop, Processes(), rows)
    return float(losses[~losses.isnan()].mean())


# -- checkpoints -----------------------------------------------------------------------------------------


def _save(state: _State, path: Path, run: str) -> None:
    tensors = {
        **prefixed("bank", state.bank.values()),
        **prefixed("weights", state.weights.state),
        **prefixed("optimiser", state.logits.state),
        "logits": state.relaxation.logits.detach().clone(),
        "tokens": torch.tensor(state.tokens),
        "seconds": torch.tensor(state.seconds, dtype=torch.float64),
    }
    save_checkpoint(path, run, state.step, tensors)


def _resume(state: _State, path: Path, run: str) -> None:
    found = load_checkpoint(path, run)
    if found is None:
        return
    state.step, tensors = found
    state.bank.restore(unprefixed("bank", tensors))
    for name, optimiser in (("weights", state.weights), ("optimiser", state.logits)):
        for key, tensor in unprefixed(name, tensors).items():
            optimiser.state[key].copy_(tensor)
    with torch.no_grad():
        state.relaxation.logits.copy_(tensors["logits"])
    state.tokens, state.seconds = int(tensors["tokens"]), float(tensors["seconds"])
