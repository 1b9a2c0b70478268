"""Does a task do its work equally well in every slice of a corpus (years, sites, …)? Scores, and tests of change.

All tests permute: under the null hypothesis the slice of a patient says nothing about how well the task does there, so
slices are dealt anew to patients (records of one `group` in one slice stay together; without groups, to records) and
the statistic is computed again. That holds for any metric, F1 over all mentions of a slice included, at any size.

- any difference: the spread of the slices' scores around the whole corpus's, weighted by their records;
- trend, where slices have an order: the slope of a weighted straight line through the slices' scores;
- which slice: each against all others, Holm-corrected over the slices.

`drifted` is: one of the first two is below alpha after Holm's correction. Our choice of statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clinprompt.errors import TaskError
from clinprompt.experiments.significance import Array, holm
from clinprompt.records import Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import Score, bootstrap, headline, sheet_of
from clinprompt.tasks.scoring import Sheet
from clinprompt.upkeep.slices import Slicing

PERMUTATIONS = 2000
LEAST_RECORDS = 10
COUNT = "slice:records"
_CHUNK = 2_000_000  # numbers of permuted sums held at a time


@dataclass(frozen=True, slots=True)
class SliceScore:
    """One slice: its records, headline score with 95 % interval (0..100), and its difference to all other records with
    the p-value of that and the same corrected over the slices. Too small a slice is scored and not tested (None)."""

    name: str
    n: int
    score: Score
    difference: float | None = None
    p: float | None = None
    adjusted_p: float | None = None


@dataclass(frozen=True, slots=True)
class Trend:
    """Points gained (or lost, negative) per year, quarter, month or unit of the field, and its p-value."""

    slope: float
    p: float


@dataclass(frozen=True)
class Drift:
    """What `compare` found. With fewer than two slices to test `difference_p` is None, as `trend` without an order."""

    metric: str
    n: int
    units: int
    missing: int
    score: Score
    slices: tuple[SliceScore, ...]
    difference_p: float | None
    trend: Trend | None
    drifted: bool
    alpha: float
    permutations: int

    def summary(self) -> dict[str, Any]:
        """JSON-ready; what is undefined is None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def drift(
    task: TaskDefinition,
    gold: Sequence[Record],
    predictions: Sequence[Prediction],
    slicing: Slicing,
    *,
    permutations: int = PERMUTATIONS,
    least_records: int = LEAST_RECORDS,
    alpha: float = 0.05,
    seed: int = 0,
) -> Drift:
    """Score every slice by the task's headline metric and test for change. Records without a slice are left out.

    Raises TaskError if no record has a slice.
    """
    kept = [i for i, label in enumerate(slicing.labels) if label is not None]
    if not kept:
        raise TaskError(f"task {task.name}: none of the {len(gold)} records has the field to slice by.")
    sheet = sheet_of(task, [gold[i] for i in kept], [predictions[i] for i in kept])
    labels = [str(slicing.labels[i]) for i in kept]
    units = [gold[i].group or f"\x00{gold[i].id}" for i in kept]
    return compare(
        sheet,
        headline(task),
        labels,
        units,
        slicing.names,
        slicing.places,
        missing=slicing.missing,
        permutations=permutations,
        least_records=least_records,
        alpha=alpha,
        seed=seed,
    )


def compare(
    sheet: Sheet,
    metric: str,
    labels: Sequence[str],
    units: Sequence[str],
    names: Sequence[str],
    places: Sequence[float] = (),
    *,
    missing: int = 0,
    permutations: int = PERMUTATIONS,
    least_records: int = LEAST_RECORDS,
    alpha: float = 0.05,
    seed: int = 0,
) -> Drift:
    """Compare the slices `names` (in order; `places` on a scale, if they have one) of a sheet's records.

    `labels` and `units` name the slice of each record and the unit (patient, document) it belongs to. Names without a
    record (those that a sample missed) are left out.
    """
    held = set(labels)
    places = [place for name, place in zip(names, places, strict=True) if name in held] if places else []
    names = [name for name in names if name in held]
    pooled, owner = _by_unit(sheet, labels, units)
    count = pooled.columns[COUNT]
    of = {name: np.flatnonzero([label == name for label in owner]) for name in names}
    sizes = {name: int(count[of[name]].sum()) for name in names}
    tested = [name for name in names if sizes[name] >= least_records]
    tests = _Tests()
    if len(tested) > 1:
        where = [places[names.index(name)] for name in tested] if places else []
        tests = _permute(pooled, metric, [of[name] for name in tested], where, permutations, seed)
    slices = []
    for name in names:
        score = bootstrap(_rows(pooled, of[name], metric), resamples=1000, seed=seed)[metric]
        slices.append(_slice(name, sizes[name], score, tests, tested))
    asked = [p for p in (tests.difference_p, tests.trend.p if tests.trend else None) if p is not None]
    whole = bootstrap(_rows(pooled, np.arange(pooled.size), metric), resamples=1000, seed=seed)[metric]
    return Drift(
        metric=metric,
        n=int(count.sum()),
        units=pooled.size,
        missing=missing,
        score=whole,
        slices=tuple(slices),
        difference_p=tests.difference_p,
        trend=tests.trend,
        drifted=bool(asked) and min(holm(asked)) < alpha,
        alpha=alpha,
        permutations=permutations,
    )


@dataclass
class _Tests:
    difference_p: float | None = None
    trend: Trend | None = None
    each: Sequence[float] = ()  # difference of each tested slice to all others
    each_p: Sequence[float] = ()


def _by_unit(sheet: Sheet, labels: Sequence[str], units: Sequence[str]) -> tuple[Sheet, list[str]]:
    """A sheet with one row per unit and slice, and the slice of each row: metrics read sums, so rows may be added up.

    A patient with records in two slices is two rows. That treats what a patient has in both as independent: the tests
    then err on the side of finding a change where patients differ much and return often.
    """
    keys = list(zip(units, labels, strict=True))
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    index = np.array([rows[key] for key in keys])
    columns = {**sheet.columns, COUNT: np.ones(sheet.size)}
    pooled: dict[str, Array] = {
        name: np.bincount(index, weights=column, minlength=len(rows)).astype(np.float64)
        for name, column in columns.items()
    }
    return Sheet(len(rows), pooled, sheet.metrics), [label for _, label in rows]


def _rows(sheet: Sheet, rows: Any, metric: str) -> Sheet:
    """Some rows of a sheet, with one metric."""
    columns = {name: column[rows] for name, column in sheet.columns.items()}
    return Sheet(len(rows), columns, {metric: sheet.metrics[metric]})


def _permute(
    sheet: Sheet, metric: str, groups: Sequence[Any], places: Sequence[float], permutations: int, seed: int
) -> _Tests:
    """All statistics of the observed slices and of `permutations` dealt ones."""
    columns = list(sheet.columns)
    order = np.concatenate(groups)
    table = np.stack([sheet.columns[name][order] for name in columns], axis=1)  # (units, columns), slice by slice
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    total = table.sum(axis=0)
    whole = float(_metric(sheet, metric, columns, total[None])[0])
    generator = np.random.default_rng(seed)

    def statistics(sums: Array) -> tuple[Array, Array, Array]:
        """(b, slices, columns) → spread (b,), slope (b,), each against the others (b, slices)."""
        batch, slices, width = sums.shape
        own = _metric(sheet, metric, columns, sums.reshape(-1, width)).reshape(batch, slices)
        rest = _metric(sheet, metric, columns, (total - sums).reshape(-1, width)).reshape(batch, slices)
        weights = sums[:, :, columns.index(COUNT)]
        own, rest = np.where(np.isnan(own), whole, own), np.where(np.isnan(rest), whole, rest)
        spread = (weights * (own - whole) ** 2).sum(axis=1)
        return spread, _slopes(own, weights, places), own - rest

    observed = statistics(np.add.reduceat(table, starts, axis=0)[None])
    beyond = [np.zeros_like(part[0]) for part in observed]
    step = max(1, _CHUNK // (len(starts) * table.shape[1]))
    for begin in range(0, permutations, step):
        drawn = np.stack(
            [
                np.add.reduceat(table[generator.permutation(len(table))], starts, axis=0)
                for _ in range(min(step, permutations - begin))
            ]
        )
        for kept, seen, now in zip(beyond, observed, statistics(drawn), strict=True):
            kept += (np.abs(now) >= np.abs(seen) - 1e-9).sum(axis=0)
    difference, slope, each = ((1 + kept) / (1 + permutations) for kept in beyond)
    trend = Trend(float(observed[1][0]), float(slope)) if places else None
    return _Tests(float(difference), trend, observed[2][0].tolist(), np.atleast_1d(each).tolist())


def _metric(sheet: Sheet, metric: str, columns: Sequence[str], sums: Array) -> Array:
    """(k, columns) sums → (k,) the metric in 0..100."""
    return np.asarray(100 * sheet.metrics[metric]({name: sums[:, i] for i, name in enumerate(columns)}))


def _slopes(scores: Array, weights: Array, places: Sequence[float]) -> Array:
    """Weighted least squares of scores (b, slices) on places: slopes (b,); zeros where slices have no order."""
    if not places:
        return np.zeros(len(scores))
    x = np.asarray(places, dtype=np.float64)
    centred = x - (weights * x).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
    spread = (weights * centred**2).sum(axis=1)
    products = (weights * centred * scores).sum(axis=1)
    slopes: Array = np.divide(products, spread, out=np.zeros_like(products), where=spread > 0)
    return slopes


def _slice(name: str, n: int, score: Score, tests: _Tests, tested: Sequence[str]) -> SliceScore:
    if name not in tested or not tests.each:
        return SliceScore(name, n, score)
    place = tested.index(name)
    adjusted = holm(tests.each_p)[place]
    return SliceScore(name, n, score, float(tests.each[place]), float(tests.each_p[place]), adjusted)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
