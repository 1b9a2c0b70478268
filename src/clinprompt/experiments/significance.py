"""May a difference between two methods be called one? Paired tests, effect sizes, and the price of asking often.

Two tests with different questions. The paired bootstrap asks whether, with these runs, another sample of test records
could have turned the sign (Efron & Tibshirani 1993, ch. 16; for F1 as in Berg-Kirkpatrick et al. 2012). Wilcoxon's
signed-rank test (1945) asks whether one method is ahead over tasks and draws. Families of p-values are corrected with
Holm's step-down procedure (1979). Effect sizes: mean difference, and the matched-pairs rank-biserial correlation (Kerby
2014); their intervals resample whole targets, because draws on one target are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from clinprompt.tasks.metrics import resampled_sums

Array = NDArray[np.float64]
RESAMPLES = 10_000
EXACT_UP_TO = 50  # pairs; beyond, the normal approximation is accurate and the exact distribution long


@dataclass(frozen=True, slots=True)
class Difference:
    """a − b in points (0..100), the bounds of its 95 % interval, and a two-sided p."""

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(a: Array, b: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Difference of two methods on the same n test records, resampled together.

    a, b: (runs, n) scores of records in 0..1, or (runs, n, 3) counts (tp, fp, fn) for micro-F1, which is computed anew
    from the counts of every resample. Runs (seeds, draws) are scored one by one and averaged; the numbers of runs may
    differ. p is the share of resampled differences that lie as far from the observed one as that lies from 0 (the
    resamples, shifted, play the null hypothesis), the observed one counted in: it is never 0.
    Raises ValueError for different records.
    """
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"the records differ: {a.shape[1:]} and {b.shape[1:]}")
    parts = [_columns(a), _columns(b)]
    table = np.concatenate(parts, axis=1)
    whole = table.sum(axis=0, keepdims=True)
    drawn = resampled_sums(table, resamples, seed)
    cut, size = parts[0].shape[1], a.shape[1]
    observed, resampled = (
        _scores(sums[:, :cut], a.ndim, size) - _scores(sums[:, cut:], b.ndim, size) for sums in (whole, drawn)
    )
    value = float(observed[0])
    beyond = np.abs(resampled - value) >= abs(value) - 1e-9
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Difference(value, float(low), float(high), float((1 + beyond.sum()) / (1 + resamples)))


def _columns(runs: Array) -> Array:
    """(runs, n) or (runs, n, 3) → (n, runs) or (n, runs · 3)."""
    return np.moveaxis(runs, 0, 1).reshape(runs.shape[1], -1).astype(np.float64)


def _scores(sums: Array, dimensions: int, size: int) -> Array:
    """Column sums (resamples, columns) → the mean score of the runs, in 0..100."""
    if dimensions == 2:
        return np.asarray(100 * sums.mean(axis=1) / size, dtype=np.float64)
    counts = sums.reshape(len(sums), -1, 3)
    return np.asarray(100 * micro_f1(counts).mean(axis=1), dtype=np.float64)


def micro_f1(counts: Array) -> Array:
    """(…, 3) sums of true positives, false positives, false negatives → F1 in 0..1; 0 where there is nothing."""
    twice = 2 * counts[..., 0]
    below = twice + counts[..., 1] + counts[..., 2]
    return np.divide(twice, below, out=np.zeros_like(below), where=below > 0)


@dataclass(frozen=True, slots=True)
class SignedRank:
    """Wilcoxon's test of `pairs` differences, `zeros` of which are 0 and carry no sign. `smallest` is the lowest p that
    so many signs could give: where it is above alpha, nothing could have come out significant."""

    p: float
    pairs: int
    zeros: int
    smallest: float

    @property
    def remark(self) -> str:
        """What a reader must know to read p; empty when there is nothing."""
        signs = self.pairs - self.zeros
        if self.pairs == 0:
            return "no pairs"
        if signs == 0:
            return "all differences are 0"
        if self.smallest > 0.05:
            return f"{signs} non-zero differences cannot give p below {self.smallest:.3g}"
        return f"{self.zeros} of {self.pairs} differences are 0 and left out" if self.zeros else ""


def signed_rank(differences: Sequence[float] | Array) -> SignedRank:
    """Two-sided signed-rank test. Zeros are left out (Wilcoxon's way); ties get their mean rank. Up to 50 signs the
    distribution is exact, ties included; beyond, SciPy's normal approximation. No sign at all gives p = 1."""
    given = np.asarray(differences, dtype=np.float64)
    kept = given[np.abs(given) > 1e-9]
    zeros, n = len(given) - len(kept), len(kept)
    if n == 0:
        return SignedRank(1.0, len(given), zeros, 1.0)
    smallest = min(1.0, 2.0 ** (1 - n))
    if n > EXACT_UP_TO:
        # Rounded, because equal differences that rounding parted are ties.
        found = stats.wilcoxon(np.round(kept, 9))
        return SignedRank(float(found.pvalue), len(given), zeros, smallest)
    return SignedRank(_exact_p(kept), len(given), zeros, smallest)


def _ranks(kept: Array) -> Array:
    """Ranks of the absolute values, ties at their mean; differences equal to nine places are ties."""
    return np.asarray(stats.rankdata(np.round(np.abs(kept), 9)), dtype=np.float64)


def _exact_p(kept: Array) -> float:
    """All 2^n assignments of signs, counted by their rank sum. Ranks are doubled: mean ranks end in .5 at most."""
    doubled = np.rint(2 * _ranks(kept)).astype(int)
    ways = np.zeros(doubled.sum() + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[:-rank]
    plus = int(doubled[kept > 0].sum())
    lower, upper = ways[: plus + 1].sum(), ways[plus:].sum()
    return float(min(1.0, 2 * min(lower, upper) / ways.sum()))


def rank_biserial(differences: Sequence[float] | Array) -> float:
    """(W⁺ − W⁻) / (W⁺ + W⁻) in −1..1: 1 when every non-zero difference is positive. 0 when all are zero."""
    given = np.asarray(differences, dtype=np.float64)
    kept = given[np.abs(given) > 1e-9]
    if len(kept) == 0:
        return 0.0
    ranks = _ranks(kept)
    return float((ranks[kept > 0].sum() - ranks[kept < 0].sum()) / ranks.sum())


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect size with the bounds of its 95 % interval (nan where it cannot be known)."""

    value: float
    low: float
    high: float


def mean_effect(groups: Sequence[Array], *, seed: int = 0) -> Effect:
    """Mean difference over targets, each target once; groups[t] holds the differences of target t. The interval is
    SciPy's BCa bootstrap over targets: nan below 3 targets, and without width when all are equal."""
    means = np.array([group.mean() for group in groups])
    value = float(means.mean())
    if len(means) < 3:
        return Effect(value, math.nan, math.nan)
    if np.ptp(means) < 1e-9:
        return Effect(value, value, value)
    found = stats.bootstrap((means,), np.mean, method="BCa", random_state=np.random.default_rng(seed))
    return Effect(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def rank_effect(groups: Sequence[Array], *, seed: int = 0) -> Effect:
    """Rank-biserial correlation over all pairs; the interval resamples targets with all their pairs (percentiles: the
    correlation is often at its border, where BCa has no acceleration)."""
    value = rank_biserial(np.concatenate(groups))
    if len(groups) < 3:
        return Effect(value, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    drawn = [
        rank_biserial(np.concatenate([groups[i] for i in generator.integers(len(groups), size=len(groups))]))
        for _ in range(1000)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Effect(value, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family, in its order: the i-th smallest times (m − i + 1), never falling, at most 1.

    Rejecting where they are below alpha keeps the chance of any false rejection in the family below alpha, whatever the
    dependence between the tests.
    """
    adjusted, highest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for place, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (m - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
