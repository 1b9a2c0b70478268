"""Train, kill, train on: one process, one file of state, a schedule that knows the clock.

``python -m pretraining.train --recipe pretraining/recipes/embedded.json --data runs/pretraining/shards \\
--out runs/pretraining/embedded --finish-at 07:00``

The learning rate rises, stays, and falls linearly to zero over the last part of the run (WSD). With ``--finish-at`` or
``--minutes`` that part is measured in time, so that the run ends well decayed however fast the machine was; with
``--steps`` in steps, and then a run that was killed and repeated ends bit for bit like one that was not. The state
before the decay is kept as ``stable.safetensors``: more compute continues from there (``--from``).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretraining.model import Model, ModelConfig, weighted_loss
from pretraining.optimiser import Optimiser
from pretraining.packing import Shard, load_shard

HELD_OUT = 32
"""First rows of every shard: never trained on, their loss is the curve."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Until `tokens` were seen: rows of each shard in an ordinary step and in every `long_every`-th step."""

    tokens: float
    short: dict[str, int]
    long: dict[str, int]
    long_every: int


@dataclass(frozen=True, slots=True)
class Recipe:
    model: ModelConfig
    phases: list[Phase]
    matrix_rate: float = 0.02
    other_rate: float = 0.004
    warmup_steps: int = 50
    decay_share: float = 0.3
    seed: int = 0

    @classmethod
    def read(cls, path: Path) -> Recipe:
        raw = json.loads(path.read_text(encoding="utf-8"))
        phases = [Phase(**{**phase, "tokens": float(phase["tokens"])}) for phase in raw.pop("phases")]
        return cls(model=ModelConfig(**raw.pop("model")), phases=phases, **raw)

    def phase(self, tokens: int) -> Phase:
        return next((phase for phase in self.phases if tokens < phase.tokens), self.phases[-1])


@dataclass
class Progress:
    """Where a run stands. `seconds` counts training time over all restarts; `cursors` rows taken from each shard."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    optimiser_steps: int = 0
    cursors: dict[str, int] = field(default_factory=dict)


def save_state(path: Path, model: Model, optimiser: Optimiser, progress: Progress, recipe: Recipe) -> None:
    """Everything in one safetensors file, written beside and moved into place."""
    progress.optimiser_steps = optimiser.count
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"state.{k}": v.contiguous() for k, v in optimiser.state.items()}
    metadata = {"progress": json.dumps(vars(progress)), "model": json.dumps(recipe.model.as_dict())}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, str(temporary), metadata)
    temporary.replace(path)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Progress, ModelConfig]:
    """Model weights, optimiser state, progress and shape of a checkpoint."""
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    progress = Progress(**json.loads(metadata["progress"]))
    return weights, state, progress, ModelConfig(**json.loads(metadata["model"]))


def rows_for(shard: Shard, count: int, cursor: int, seed: int) -> Tensor:
    """Row numbers `cursor … cursor + count` of an endless walk: each epoch is a new seeded permutation."""
    usable = len(shard) - HELD_OUT
    picked = []
    while count:
        epoch, offset = divmod(cursor, usable)
        order = torch.randperm(usable, generator=torch.Generator().manual_seed(seed + 1009 * epoch)) + HELD_OUT
        part = order[offset : offset + count]
        picked.append(part)
        cursor += len(part)
        count -= len(part)
    return torch.cat(picked)


def batch(shards: dict[str, Shard], plan: dict[str, int], progress: Progress, seed: int) -> tuple[Tensor, ...]:
    """Ids, segments and weights of one step; advances the cursors."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for name, count in plan.items():
        cursor = progress.cursors.get(name, 0)
        rows = rows_for(shards[name], count, cursor, seed)
        progress.cursors[name] = cursor + count
        parts.append((shards[name].ids[rows], shards[name].segments[rows], shards[name].weights[rows]))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def held_out_losses(model: Model, shards: dict[str, Shard], precision: Callable[[], Any]) -> dict[str, float]:
    """Mean loss on the rows of each shard that training never sees (the first few of long ones)."""
    losses = {}
    with torch.no_grad(), precision():
        for name, shard in shards.items():
            rows = slice(0, max(1, min(HELD_OUT, 8192 // shard.ids.shape[1])))
            losses[name] = float(
                weighted_loss(model, shard.ids[rows].int(), shard.segments[rows], shard.weights[rows].clamp(max=1))
            )
    return losses


@dataclass(frozen=True, slots=True)
class Schedule:
    """Multiplier of the learning rates; `remaining()` is the share of the run still to come."""

    recipe: Recipe
    steps: int | None
    finish: float | None
    started: float

    def remaining(self, step: int) -> float:
        if self.steps is not None:
            return max(0.0, (self.steps - step) / self.steps)
        assert self.finish is not None
        return max(0.0, (self.finish - time.time()) / (self.finish - self.started))

    def multiplier(self, step: int) -> float:
        warm = (step + 1) / self.recipe.warmup_steps
        return min(1.0, warm, self.remaining(step) / self.recipe.decay_share)


def train(
    recipe: Recipe,
    shards: dict[str, Shard],
    out: Path,
    *,
    steps: int | None = None,
    finish: float | None = None,
    minutes: float | None = None,
    bf16: bool = True,
    compiled: bool = False,
    save_seconds: float = 120.0,
    curve_steps: int = 50,
    begin: Path | None = None,
    stop_after: int | None = None,
) -> Model:
    """Run until `steps`, the time `finish` (seconds since the epoch) or for `minutes`; continues what `out` holds.

    `minutes` counts training time over all calls, so a killed run that is repeated still ends after so many.
    `begin` is a checkpoint to start from when `out` has none; `stop_after` ends this call early, as a kill would.
    """
    out.mkdir(parents=True, exist_ok=True)
    latest = out / "latest.safetensors"
    model = Model(recipe.model, recipe.seed)
    optimiser = Optimiser(model)
    progress = Progress()
    source = latest if latest.exists() else begin
    if source is not None:
        weights, state, progress, config = load_state(source)
        if config != recipe.model:
            raise SystemExit(f"{source}: made for another model shape. Use the recipe it was trained with.")
        model.load_state_dict(weights)
        for name, tensor in optimiser.state.items():
            tensor.copy_(state[name])
        optimiser.count = progress.optimiser_steps
    started = time.time() - progress.seconds
    if minutes is not None:
        finish = started + 60 * minutes
    schedule = Schedule(recipe, steps, finish, started)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def precision() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()

    saved, mark, last = time.time(), (progress.tokens, time.time()), progress.step
    decaying = False
    interrupted: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: interrupted.append(number))
    while not interrupted and (left := schedule.remaining(progress.step)) > 0 and progress.step - last != stop_after:
        if not decaying and left <= recipe.decay_share:
            save_state(out / "stable.safetensors", model, optimiser, progress, recipe)
            decaying = True
        phase = recipe.phase(progress.tokens)
        plan = phase.long if progress.step % phase.long_every == phase.long_every - 1 else phase.short
        ids, segments, row_weights = batch(shards, plan, progress, recipe.seed)
        with precision():
            loss = weighted_loss(model, ids.int(), segments, row_weights, forward=forward)
        torch.autograd.backward(loss)
        rate = schedule.multiplier(progress.step)
        optimiser.step(recipe.matrix_rate * rate, recipe.other_rate * rate)
        progress.step += 1
        progress.tokens += ids.numel()
        progress.seconds = time.time() - started
        if progress.step % curve_steps == 0:
            speed = (progress.tokens - mark[0]) / (time.time() - mark[1])
            losses = held_out_losses(model, shards, precision)
            report(out / "curve.csv", progress, rate, speed, float(loss.detach()), losses)
            mark = (progress.tokens, time.time())
        if time.time() - saved > save_seconds:
            save_state(latest, model, optimiser, progress, recipe)
            saved = time.time()
    save_state(latest, model, optimiser, progress, recipe)
    return model


def report(path: Path, progress: Progress, rate: float, speed: float, loss: float, losses: dict[str, float]) -> None:
    """Append one line to the curve and print it."""
    row: dict[str, str] = {
        "step": str(progress.step), "tokens": str(progress.tokens), "seconds": f"{progress.seconds:.0f}",
        "rate": f"{rate:.3f}", "tokens_per_second": f"{speed:.0f}", "train": f"{loss:.3f}",
    }  # fmt: skip
    row["held_out"] = " ".join(f"{name}={value:.3f}" for name, value in sorted(losses.items()))
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)


def clock(text: str) -> float:
    """The next time the clock shows HH:MM, in seconds since the epoch."""
    now = datetime.datetime.now()
    hour, minute = map(int, text.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (then if then > now else then + datetime.timedelta(days=1)).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--from", dest="begin", type=Path, help="checkpoint to continue (its decay undone)")
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--finish-at", type=clock, metavar="HH:MM")
    end.add_argument("--minutes", type=float, help="of training, counted over all restarts")
    end.add_argument("--steps", type=int, help="in all; reproducible to the bit")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="fuse elementwise work: +8 %%, half a minute to start")
    parser.add_argument("--fp32", action="store_true", help="no bf16 autocast")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe.read(args.recipe)
    names = {name for phase in recipe.phases for plan in (phase.short, phase.long) for name in plan}
    shards = {name: load_shard(args.data / f"{name}.safetensors") for name in sorted(names)}
    train(
        recipe, shards, args.out, steps=args.steps, finish=args.finish_at, minutes=args.minutes,
        bf16=not args.fp32, compiled=args.compile, begin=args.begin,
    )  # fmt: skip


if __name__ == "__main__":
    main()
