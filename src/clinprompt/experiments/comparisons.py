"""The reference method against others: paired runs, tests over targets × draws and on each target, Holm-corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clinprompt.experiments.board import Board, outcomes
from clinprompt.experiments.results import Cell
from clinprompt.experiments.significance import (
    RESAMPLES,
    Array,
    Difference,
    Effect,
    SignedRank,
    holm,
    mean_effect,
    paired_bootstrap,
    rank_effect,
    signed_rank,
)

ALPHA = 0.05


@dataclass(frozen=True)
class OnTarget:
    """Reference − other on one target (paired bootstrap over test records), p corrected over all of its family."""

    target: str
    difference: Difference
    holm: float


@dataclass(frozen=True)
class Comparison:
    """Reference − other. `over_runs`: signed-rank over targets × draws, the protocol's test; `over_targets`: the same
    over the targets' mean differences, which takes no draw of a target for an independent witness."""

    reference: str
    other: str
    shots: int | str
    targets: tuple[str, ...]
    over_runs: SignedRank
    over_runs_holm: float
    over_targets: SignedRank
    over_targets_holm: float
    mean: Effect
    rank: Effect
    on_targets: tuple[OnTarget, ...] = ()

    @property
    def significant(self) -> bool:
        return self.over_runs_holm < ALPHA


def paired_differences(a: Sequence[Cell], b: Sequence[Cell]) -> Array:
    """Differences of headline scores of runs with the same draw and seed.

    A method that trains nothing has no run of its own for every seed: at other shots, or with a single run, its mean
    stands against every run of the other.
    """
    by_run = [{(c.draw, c.seed): c.value for c in cells if not np.isnan(c.value)} for cells in (a, b)]
    if not by_run[0] or not by_run[1]:
        return np.zeros(0)
    if _stands_alone(b, a):
        mean = float(np.mean(list(by_run[1].values())))
        return np.array([value - mean for _, value in sorted(by_run[0].items())])
    if _stands_alone(a, b):
        mean = float(np.mean(list(by_run[0].values())))
        return np.array([mean - value for _, value in sorted(by_run[1].items())])
    return np.array([by_run[0][run] - by_run[1][run] for run in sorted(set(by_run[0]) & set(by_run[1]))])


def _stands_alone(cells: Sequence[Cell], others: Sequence[Cell]) -> bool:
    untrained = all(cell.trainable == 0 for cell in cells)
    return untrained and (len(cells) == 1 or cells[0].shots != others[0].shots)


def compare(
    board: Board,
    others: Sequence[str],
    *,
    shots: int | str | None = None,
    on_targets: bool = True,
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """The reference against each of `others`, as one family: p-values are corrected over all of them.

    Methods that share no target with the reference are left out. `shots`: None for those of the main table.
    """
    found = [_compare(board, other, shots) for other in others if other != board.reference]
    kept = [comparison for comparison in found if comparison is not None]
    runs = holm([c.over_runs.p for c in kept])
    targets = holm([c.over_targets.p for c in kept])
    kept = [replace(c, over_runs_holm=r, over_targets_holm=t) for c, r, t in zip(kept, runs, targets, strict=True)]
    return _on_targets(board, kept, resamples) if on_targets else kept


def _compare(board: Board, other: str, shots: int | str | None) -> Comparison | None:
    groups = {
        target: paired_differences(board.runs(target, board.reference, shots), board.runs(target, other, shots))
        for target in board.targets
    }
    groups = {target: found for target, found in groups.items() if len(found)}
    if not groups:
        return None
    values = list(groups.values())
    over_runs = signed_rank(np.concatenate(values))
    over_targets = signed_rank([float(group.mean()) for group in values])
    at = shots if shots is not None else board.shots_shown(other)
    return Comparison(
        board.reference,
        other,
        at,
        tuple(groups),
        over_runs,
        over_runs.p,
        over_targets,
        over_targets.p,
        mean_effect(values),
        rank_effect(values),
    )


def _on_targets(board: Board, comparisons: Sequence[Comparison], resamples: int) -> list[Comparison]:
    places = [(c, target) for c in comparisons for target in c.targets]
    differences = []
    for comparison, target in places:
        a, b = (outcomes(board.runs(target, method)) for method in (board.reference, comparison.other))
        differences.append(paired_bootstrap(a, b, resamples=resamples))
    adjusted = holm([d.p for d in differences])
    rows: dict[str, list[OnTarget]] = {c.other: [] for c in comparisons}
    for (comparison, target), difference, p in zip(places, differences, adjusted, strict=True):
        rows[comparison.other].append(OnTarget(target, difference, p))
    return [replace(c, on_targets=tuple(rows[c.other])) for c in comparisons]
