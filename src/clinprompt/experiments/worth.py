"""What the metaprompt costs against what it saves: once for all targets, against every time anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clinprompt.experiments.board import Board
from clinprompt.experiments.comparisons import paired_differences
from clinprompt.experiments.results import Cell, MetaLine
from clinprompt.experiments.significance import Effect, mean_effect

Unit = Literal["seconds", "flops", "joules"]
UNITS: tuple[Unit, ...] = ("seconds", "flops", "joules")


@dataclass(frozen=True)
class Worth:
    """learn: cost of the metaprompt, once; reference, other: cost of one target (tuning included), mean over targets;
    targets: after how many targets reference and metaprompt together cost less than the other method, None for never.
    `score`: reference − other in points."""

    other: str
    unit: Unit
    learn: float
    reference: float
    other_cost: float
    targets: int | None
    score: Effect


def metaprompt_lines(board: Board) -> list[MetaLine]:
    """The lines of the metaprompts that the reference's cells used: by digest, else by the name of the variant."""
    used = {cell.metaprompt for cell in board.cells if cell.method == board.reference and cell.metaprompt}
    backbones = {cell.backbone for cell in board.cells}
    lines = [line for line in board.results.metaprompts if line.backbone in backbones | {""}]
    by_digest = [line for line in lines if line.digest in used]
    return by_digest or [line for line in lines if line.variant == board.reference]


def cost(line: Cell | MetaLine, unit: Unit) -> float | None:
    """Seconds of training, floating-point operations, or joules; None where joules were not measured."""
    if unit == "seconds":
        return line.train_seconds if isinstance(line, Cell) else line.seconds
    return line.flops if unit == "flops" else line.joules


def mean_cost(board: Board, method: str, unit: Unit, targets: Sequence[str]) -> float | None:
    """Mean over targets of the mean cost of a run; None if a run did not measure it."""
    means = []
    for target in targets:
        costs = [cost(cell, unit) for cell in board.runs(target, method)]
        known = [c for c in costs if c is not None]
        if not costs or len(known) < len(costs):
            return None
        means.append(float(np.mean(known)))
    return float(np.mean(means)) if means else None


def break_even(learn: float, reference: float, other: float) -> int | None:
    """The smallest number of targets N with learn + N · reference < N · other; None if there is none."""
    if other <= reference:
        return None
    return math.floor(learn / (other - reference)) + 1


def worth(board: Board, others: Sequence[str]) -> list[Worth]:
    """The reference against each method that trains, in every unit that was measured, on the targets both have."""
    lines = metaprompt_lines(board)
    found = []
    for other in others:
        if other == board.reference or not any(c.trainable for c in board.cells if c.method == other):
            continue
        targets = board.complete_targets((board.reference, other))
        groups = [paired_differences(board.runs(t, board.reference), board.runs(t, other)) for t in targets]
        groups = [group for group in groups if len(group)]
        if not groups:
            continue
        for unit in UNITS:
            once = [cost(line, unit) for line in lines]
            spent = [c for c in once if c is not None]
            mine, theirs = (mean_cost(board, m, unit, targets) for m in (board.reference, other))
            if not spent or len(spent) < len(once) or mine is None or theirs is None:
                continue
            learn = float(np.mean(spent))
            even = break_even(learn, mine, theirs)
            found.append(Worth(other, unit, learn, mine, theirs, even, mean_effect(groups)))
    return found


@dataclass(frozen=True)
class Saved:
    """How many examples `other` needs for the reference's average score at `shots`: the smallest number measured that
    reaches it, None if none did."""

    shots: int
    score: float
    other: str
    needs: int | str | None


def examples_saved(board: Board) -> list[Saved]:
    """For every number of shots of the reference and every other few-shot method, on targets that both have at all
    the numbers compared. All examples count as a number of shots."""
    found = []
    steps: tuple[int | str, ...] = (*board.few_shots, "full")
    for other in board.few_shot_methods:
        if other in (board.reference, *board.ablations) or board.reference not in board.few_shot_methods:
            continue
        mine = [k for k in steps if any(c.method == board.reference and c.shots == k for c in board.cells)]
        theirs = [k for k in steps if any(c.method == other and c.shots == k for c in board.cells)]
        targets = [
            t
            for t in board.targets
            if all(board.scores(t, board.reference, k) for k in mine) and all(board.scores(t, other, k) for k in theirs)
        ]
        if not targets:
            continue
        curve = {k: average.mean for k in theirs if (average := board.average(other, targets, k)) is not None}
        for k in mine:
            average = board.average(board.reference, targets, k)
            if average is None or k == "full":
                continue
            needs = next((n for n in theirs if curve[n] >= average.mean), None)
            found.append(Saved(int(k), average.mean, other, needs))
    return found
