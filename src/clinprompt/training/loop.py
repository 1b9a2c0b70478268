"""The training loop: one bank, many rows, any sampler.

A step asks the sampler for examples, cuts them into micro-batches of similar length, sums gradients over them (and
over processes), and lets every row take its own optimiser step. No state lives outside the bank, the optimiser, the
record of losses and the best values so far; all of it is in the checkpoint, so that on CPU an interrupted run ends
bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.injection import collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from clinprompt.errors import TrainingError
from clinprompt.prompts.bank import Bank
from clinprompt.training.batching import TaskExamples, chunks, forward_tokens
from clinprompt.training.checkpoint import load_checkpoint, prefixed, save_checkpoint, unprefixed
from clinprompt.training.distillation import Distillation
from clinprompt.training.interrupts import undivided
from clinprompt.training.optimiser import RowAdamW
from clinprompt.training.processes import Processes
from clinprompt.training.rows import copy_rows, finite_rows, slice_mask
from clinprompt.training.sampling import Pick, Sampler
from clinprompt.training.settings import LoopSettings

Progress = Callable[[int, int, float], None]  # step, steps, mean training loss


@dataclass(frozen=True)
class Problem:
    """What is trained on what: `row_tasks[r]` is the task whose validation examples judge row r.

    `normalise`: "row" averages the loss over each row's own labels, as if it trained alone; "batch" over all labels
    of a step (the source stage, where rows share P*). `select`: keep the best values, and stop early, per row or as a
    whole bank. Rows are independent if both are "row": one that loses its way (`_lose`) then stops, and the others
    train on. `tolerant`: also the last of them does, without an error.
    """

    bank: Bank
    tasks: Sequence[TaskExamples]
    sampler: Sampler
    rates: Mapping[str, Tensor]  # parameter name → (slices,) peak learning rates
    row_tasks: Sequence[int]
    normalise: Literal["row", "batch"] = "row"
    select: Literal["row", "bank"] = "row"
    distillation: Distillation | None = None
    phases: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # parameter → steps [begin, end) it moves in
    tolerant: bool = False


@dataclass
class Fit:
    """What came out: `history` (steps, R) training losses (NaN where a row took no part), `validation` (R,) losses of
    the kept values (NaN without validation, infinite for a row that lost its way), steps taken per row, and what it
    cost."""

    history: Tensor
    validation: Tensor
    steps: Tensor
    seconds: float = 0.0
    tokens: int = 0


@dataclass
class _State:
    optimiser: RowAdamW
    history: Tensor
    best: dict[str, Tensor]
    best_loss: Tensor  # (R,)
    stale: Tensor  # (R,) validations since the best
    stopped_at: Tensor  # (R,) step at which a row stopped, -1 while it trains
    step: int = 0
    tokens: int = 0
    rates: dict[str, Tensor] = field(default_factory=dict)


def fit(
    backbone: Backbone,
    problem: Problem,
    settings: LoopSettings,
    *,
    checkpoint: Path | None = None,
    run: str = "",
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Train the bank in place; afterwards it holds the best values by validation loss (the last ones without).

    With `checkpoint`, state is written every `settings.checkpoint_every` steps and at the end; a run with the same
    `run` identity continues from it. Ctrl-C waits for the end of the step and writes a checkpoint first; a second one
    ends at once and leaves the last checkpoint.
    """
    processes = processes or Processes()
    state = _start(problem, settings)
    if checkpoint is not None:
        _resume(state, problem, checkpoint, run)
    began, whole = time.monotonic(), True
    try:
        while state.step < settings.steps and bool((state.stopped_at < 0).any()):
            with undivided():
                whole = False
                loss = _train_step(backbone, problem, settings, state, processes)
                state.step += 1
                every, last = settings.evaluate_every, state.step == settings.steps
                if every and (state.step % every == 0 or last):
                    _validate(backbone, problem, settings, state, processes)
                whole = True
                if checkpoint is not None and state.step % settings.checkpoint_every == 0:
                    _save(state, problem, checkpoint, run, processes)
            if progress:
                progress(state.step, settings.steps, loss)
    except KeyboardInterrupt:
        if checkpoint is not None and whole:  # a divided step is taken again from the last checkpoint
            _save(state, problem, checkpoint, run, processes)
        raise
    if checkpoint is not None:
        _save(state, problem, checkpoint, run, processes)
    if settings.evaluate_every:
        problem.bank.restore({**problem.bank.values(), **state.best})
    steps = torch.where(state.stopped_at < 0, state.step, state.stopped_at)
    return Fit(state.history[: state.step], state.best_loss, steps, time.monotonic() - began, state.tokens)


def _start(problem: Problem, settings: LoopSettings) -> _State:
    rows = problem.bank.rows
    parameters = problem.bank.trainable()
    missing = sorted(set(parameters) - set(problem.rates))
    if missing:
        raise TrainingError(f"no learning rate for {', '.join(missing)}")
    return _State(
        optimiser=RowAdamW(parameters, weight_decay=settings.weight_decay, clip=settings.clip),
        history=torch.full((settings.steps, rows), math.nan),
        best={name: p.detach().clone() for name, p in parameters.items()},
        best_loss=torch.full((rows,), math.nan),
        stale=torch.zeros(rows, dtype=torch.long),
        stopped_at=torch.full((rows,), -1, dtype=torch.long),
        rates={name: rate.to(parameters[name].device) for name, rate in problem.rates.items() if name in parameters},
    )


def _train_step(
    backbone: Backbone, problem: Problem, settings: LoopSettings, state: _State, processes: Processes
) -> float:
    active = (state.stopped_at < 0).nonzero().squeeze(1).tolist()
    picks = problem.sampler.step(state.step, active)
    state.optimiser.zero_grad()
    losses = accumulate(backbone, problem, settings, picks, processes, state.step)
    state.tokens += sum(len(problem.tasks[p.task].train[p.example].ids) + problem.bank.length for p in picks)
    for parameter in state.optimiser.parameters.values():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        parameter.grad = processes.total(gradient)
    losses = processes.total(losses)
    taken = torch.zeros(problem.bank.rows, dtype=torch.bool)
    taken[[p.row for p in picks]] = True
    factors = {name: _factor(problem, settings, name, state.step) for name in state.rates}
    moving = [name for name, factor in factors.items() if factor is not None]
    gradients = {name: state.optimiser.parameters[name].grad for name in moving}
    lost = taken & ~(losses.isfinite() & finite_rows(problem.bank, gradients))
    _lose(problem, state, lost)
    kept = (taken & ~lost).nonzero().squeeze(1)
    masks = {
        name: slice_mask(problem.bank, name, kept if name in moving else kept[:0], len(rate))
        for name, rate in state.rates.items()
    }
    state.optimiser.step({name: rate * (factors[name] or 0.0) for name, rate in state.rates.items()}, masks)
    moved = {name: state.optimiser.parameters[name] for name in moving}
    _lose(problem, state, taken & ~lost & ~finite_rows(problem.bank, moved))
    state.history[state.step, taken] = losses[taken].float()
    return float(losses[kept].mean()) if problem.normalise == "row" else float(losses.sum())


# -- rows that lose their way ------------------------------------------------------------------------------


def _lose(problem: Problem, state: _State, lost: Tensor) -> None:
    """Stop rows (R,) whose loss or gradient is no number, with their last finite values and an infinite loss.

    Raises TrainingError where they are not independent of the others, or no other is left to train for.
    """
    if not bool(lost.any()):
        return
    gone = lost | (state.best_loss.isinf() & (state.stopped_at >= 0))
    if problem.normalise != "row" or problem.select != "row" or (bool(gone.all()) and not problem.tolerant):
        raise TrainingError(_no_number(problem, state, lost))
    current = {name: p.detach() for name, p in state.optimiser.parameters.items()}
    # Where an update itself left the range of numbers, the values kept before are the last finite ones.
    copy_rows(problem.bank, state.best, current, lost & ~finite_rows(problem.bank, current))
    copy_rows(problem.bank, current, state.best, lost)
    state.best_loss = torch.where(lost, math.inf, state.best_loss)
    state.stopped_at = torch.where(lost, state.step, state.stopped_at)


def _no_number(problem: Problem, state: _State, lost: Tensor) -> str:
    rows = lost.nonzero().squeeze(1)
    rates = torch.cat([rate[problem.bank.slices(n, rows.to(rate.device))].cpu() for n, rate in state.rates.items()])
    names = sorted({problem.tasks[problem.row_tasks[row]].name for row in rows.tolist()})
    whose = f"task {names[0]}: " if len(names) == 1 else ""
    now = ", ".join(dict.fromkeys(f"{rate:g}" for rate in sorted(rates.tolist(), reverse=True)))
    what = f"{whose}the loss is not a number at step {state.step + 1}"
    return f"{what}: lower the learning rate (now {now}) or use float32."


def _factor(problem: Problem, settings: LoopSettings, name: str, step: int) -> float | None:
    """Learning-rate factor of a parameter; a phase has a schedule of its own, and outside it nothing moves (None)."""
    if name not in problem.phases:
        return settings.factor(step)
    begin, end = problem.phases[name]
    inside = begin <= step < end
    return settings.model_copy(update={"steps": end - begin}).factor(step - begin) if inside else None


def accumulate(
    backbone: Backbone,
    problem: Problem,
    settings: LoopSettings,
    picks: Sequence[Pick],
    processes: Processes,
    step: int = 0,
) -> Tensor:
    """Gradients of this process's micro-batches; returns its part of every row's loss (R,). The bank is told `step`."""
    examples = [problem.tasks[p.task].train[p.example] for p in picks]
    share = _label_weights(problem, picks, examples)
    losses = torch.zeros(problem.bank.rows)
    parts = micro_batches(problem.bank, [p.row for p in picks], examples, backbone, settings.micro_tokens)
    for part, counted in processes.own(parts):
        chosen = [picks[i] for i in part]
        batch = collate(backbone, [examples[i] for i in part])
        weights = counted * share[part].to(backbone.device)[batch.owner]
        problem.bank.announce(step, part)
        # The backward pass stays inside: an adapter that swaps weights may be asked for them again.
        with problem.bank.applied(backbone, [p.row for p in chosen], [p.task for p in chosen]) as prompts:
            layers = problem.distillation.layers if problem.distillation else (-1,)
            states = label_states(backbone, batch, prompts, layers)
            language = token_losses(backbone, states)
            loss = (weights * language).sum()
            if problem.distillation is not None:
                logits, hidden = problem.distillation.losses(backbone, states, [(p.task, p.example) for p in chosen])
                loss = loss + problem.distillation.weight_logits * (weights * logits).sum()
                loss = loss + problem.distillation.weight_hidden * (weights * hidden).sum()
            rows = torch.tensor([p.row for p in chosen])[states.owner.cpu()]
            extra = problem.bank.extra_loss()
            if extra is not None:  # each micro-batch counts by its share of the row's labels
                loss = loss + (extra * _by_row(weights.cpu(), rows, problem.bank.rows).to(extra.device)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        losses += _by_row((weights * language).detach().float().cpu(), rows, problem.bank.rows)
    return losses


def _by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Values (n,) summed by their rows (n,): (R,)."""
    return torch.zeros(count, dtype=values.dtype).index_add_(0, rows, values)


def micro_batches(
    bank: Bank, rows: Sequence[int], examples: Sequence[Encoded], backbone: Backbone, micro_tokens: int
) -> list[list[int]]:
    """Indices of examples that are computed together; of one row each where the bank cannot mix rows."""
    groups = [list(range(len(rows)))]
    if not bank.mixes:
        groups = [[i for i, row in enumerate(rows) if row == wanted] for wanted in sorted(set(rows))]
    most = forward_tokens(backbone, micro_tokens)
    return [
        [group[i] for i in part]
        for group in groups
        for part in chunks([len(examples[i].ids) + bank.length for i in group], most)
    ]


def _label_weights(problem: Problem, picks: Sequence[Pick], examples: Sequence[Encoded]) -> Tensor:
    """Weight of each pick's labels: one over the labels of its row, or over those of the step."""
    counts = torch.tensor([e.labels for e in examples], dtype=torch.float32)
    if problem.normalise == "batch":
        return (1.0 / counts.sum()).expand(len(picks))
    rows = torch.tensor([p.row for p in picks])
    totals = torch.zeros(problem.bank.rows).index_add_(0, rows, counts)
    return 1.0 / totals[rows]


# -- validation and early stopping -----------------------------------------------------------------------


@torch.no_grad()
def validation_losses(
    backbone: Backbone, problem: Problem, settings: LoopSettings, processes: Processes, rows: Sequence[int]
) -> Tensor:
    """Mean loss per label of each row on its task's validation examples (R,): NaN for rows without any, infinite where
    the loss is no number."""
    sums, counts = torch.zeros(problem.bank.rows), torch.zeros(problem.bank.rows)
    held = [(r, e) for r in rows for e in problem.tasks[problem.row_tasks[r]].validation[: settings.validation_limit]]
    owners, examples = [r for r, _ in held], [e for _, e in held]
    parts = micro_batches(problem.bank, owners, examples, backbone, settings.micro_tokens)
    for part, counted in processes.own(parts):
        batch = collate(backbone, [examples[i] for i in part])
        chosen = [owners[i] for i in part]
        with problem.bank.applied(backbone, chosen, [problem.row_tasks[r] for r in chosen]) as prompts:
            states = label_states(backbone, batch, prompts)
            language = token_losses(backbone, states)
        owner = torch.tensor(chosen)[states.owner.cpu()]
        sums.index_add_(0, owner, counted * language.float().cpu())
        counts.index_add_(0, owner, torch.full((len(owner),), counted))
    counts = processes.total(counts)
    losses = processes.total(sums) / counts
    return torch.where((counts > 0) & ~losses.isfinite(), math.inf, losses)


@torch.no_grad()
def prompt_loss(backbone: Backbone, examples: Sequence[Encoded], prompt: Tensor) -> float:
    """Mean loss per label of examples under one prompt (l, d); NaN without examples."""
    total, count, prompt = 0.0, 0, prompt.to(backbone.device)
    for chunk in chunks([len(e.ids) + len(prompt) for e in examples], forward_tokens(backbone, 8192)):
        batch = collate(backbone, [examples[i] for i in chunk])
        losses = token_losses(backbone, label_states(backbone, batch, prompt.expand(len(chunk), -1, -1)))
        total, count = total + float(losses.sum()), count + len(losses)
    return total / count if count else math.nan


def _validate(
    backbone: Backbone, problem: Problem, settings: LoopSettings, state: _State, processes: Processes
) -> None:
    rows = (state.stopped_at < 0).nonzero().squeeze(1)
    losses = validation_losses(backbone, problem, settings, processes, rows.tolist())
    training = state.stopped_at < 0
    better = _better(losses, state.best_loss, problem.select) & training
    # Rows without validation examples follow the others of their bank, or keep their last values.
    unjudged = losses.isnan() & training & (better.any() | losses.isnan().all() | (problem.select == "row"))
    current = {name: parameter.detach() for name, parameter in state.optimiser.parameters.items()}
    copy_rows(problem.bank, current, state.best, better | unjudged)
    state.best_loss = torch.where(better, losses, state.best_loss)
    judged = training & ~losses.isnan()
    state.stale = torch.where(better, 0, torch.where(judged, state.stale + 1, state.stale))
    if settings.patience:
        finished = judged & (state.stale >= settings.patience)
        if problem.select == "bank" and bool(finished.any()):  # one decision; rows without validation follow here too
            finished = training
        state.stopped_at = torch.where(finished, state.step, state.stopped_at)


def _better(losses: Tensor, best: Tensor, select: str) -> Tensor:
    """Which rows improved: each by its own loss, or all judged rows together by their mean."""
    judged = ~losses.isnan()
    if select == "row" or not judged.any():
        return judged & ~(losses >= best)
    return judged & ~(losses[judged].mean() >= best[judged].mean())


# -- checkpoints -----------------------------------------------------------------------------------------


def _save(state: _State, problem: Problem, path: Path, run: str, processes: Processes) -> None:
    if processes.main:
        tensors = {
            **prefixed("bank", problem.bank.values()),
            **prefixed("optimiser", state.optimiser.state),
            **prefixed("best", state.best),
            "history": state.history,
            "best_loss": state.best_loss,
            "stale": state.stale,
            "stopped_at": state.stopped_at,
            "tokens": torch.tensor(state.tokens),
        }
        save_checkpoint(path, run, state.step, tensors)
    processes.wait()


def _resume(state: _State, problem: Problem, path: Path, run: str) -> None:
    found = load_checkpoint(path, run)
    if found is None:
        return
    state.step, tensors = found
    problem.bank.restore(unprefixed("bank", tensors))
    for name, tensor in unprefixed("optimiser", tensors).items():
        state.optimiser.state[name].copy_(tensor)
    for name, tensor in unprefixed("best", tensors).items():
        state.best[name].copy_(tensor)
    state.history, state.best_loss = tensors["history"], tensors["best_loss"]
    state.stale, state.stopped_at = tensors["stale"], tensors["stopped_at"]
    state.tokens = int(tensors["tokens"])
