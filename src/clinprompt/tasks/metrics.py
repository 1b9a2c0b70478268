"""Scores with confidence intervals, and what kind of errors an NER model makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clinprompt.errors import TaskError, unknown_name
from clinprompt.records import Record, Span
from clinprompt.tasks.agreement import add_agreement
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.scoring import (
    Array,
    Sheet,
    bert_scores,
    entity_keys,
    ner_sheet,
    nli_sheet,
    qa_sheet,
    relation_sheet,
    summaries,
    summary_sheet,
)

_F1 = ("strict_f1", "strict_precision", "strict_recall")
_METRICS: dict[str, tuple[str, ...]] = {
    "ner": (*_F1, "relaxed_f1", "relaxed_precision", "relaxed_recall", "ungrounded"),
    "relation": (*_F1, "ungrounded"),
    "options": ("accuracy", "token_f1", "exact_match"),
    "labels": ("accuracy", "macro_f1", "matthews"),
    "free": ("token_f1", "exact_match", "bertscore"),
    "nli": ("accuracy", "macro_f1", "matthews", "pearson", "spearman", "part_accuracy", "question_match"),
    "summarization": ("rougeL", "rouge1", "rouge2", "bertscore"),
}
_SHEETS: dict[str, Callable[[TaskDefinition, Sequence[Record], Sequence[Prediction]], Sheet]] = {
    "ner": ner_sheet,
    "relation": relation_sheet,
    "qa": qa_sheet,
    "nli": nli_sheet,
    "summarization": summary_sheet,
}
# Not sums over records, so that whether a record is right stands for them where two methods are resampled together.
_BY_RIGHTNESS = ("macro_f1", "matthews", "part_accuracy", "question_match")
_CHUNK = 4_000_000  # resampling weights held at a time


@dataclass(frozen=True, slots=True)
class Score:
    """A metric in 0..100 (correlations: -100..100) with the bounds of its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


def known_metrics(task: TaskDefinition) -> tuple[str, ...]:
    """Names a task's `metrics` may hold, the default headline first."""
    return _METRICS[task.answer_kind if task.type == "qa" else task.type]


def headline(task: TaskDefinition) -> str:
    """The metric a task is reported by: the first of `task.metrics`, else the default of its type. Raises TaskError
    for a metric that the type does not have."""
    known = known_metrics(task)
    for name in task.metrics:
        if name not in known:
            raise TaskError(f"task {task.name}: {unknown_name('metric', name, list(known))}")
    return task.metrics[0] if task.metrics else known[0]


def score(
    task: TaskDefinition,
    gold: Sequence[Record],
    predictions: Sequence[Prediction],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """All metrics of a task (per type as ``strict_f1/Disease``), the headline first.

    The interval is the 2.5th to 97.5th percentile over `resamples` bootstrap samples of records (0: none, the bounds
    equal the value). Raises TaskError for an unknown metric, no records, or predictions for other records.
    """
    return score_of(task, sheet_of(task, gold, predictions), resamples=resamples, seed=seed)


def score_of(task: TaskDefinition, sheet: Sheet, *, resamples: int = 1000, seed: int = 0) -> dict[str, Score]:
    """All metrics of a sheet, the headline first; see `score`."""
    first = headline(task)
    scores = bootstrap(sheet, resamples=resamples, seed=seed)
    return {first: scores[first]} | scores


def sheet_of(task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]) -> Sheet:
    """What every record contributes to the metrics. Raises TaskError as `score` does."""
    headline(task)
    if not gold:
        raise TaskError(f"task {task.name}: no records to score.")
    if len(gold) != len(predictions):
        raise TaskError(f"task {task.name}: {len(gold)} gold records but {len(predictions)} predictions.")
    for record, prediction in zip(gold, predictions, strict=True):
        if record.id != prediction.record.id:
            raise TaskError(
                f"task {task.name}: the prediction for {prediction.record.id} stands where {record.id} is expected. "
                "Give gold and predictions in the same order."
            )
    sheet = _SHEETS[task.type](task, gold, predictions)
    add_agreement(sheet, task, gold, predictions)
    if "bertscore" in task.metrics:
        sheet.add_mean("bertscore", bert_scores(summaries(gold, predictions), task.language))
    return sheet


def contributions(task: TaskDefinition, sheet: Sheet) -> list[tuple[int, int, int]] | list[float]:
    """What each record adds to the headline, so that two methods can be resampled together.

    (true positives, false positives, false negatives) where it is an F1 (or precision or recall) over the records, else
    the record's own score in 0..1. Macro-F1, Matthews' correlation, the mean over parts and matches of whole questions
    are no sums over records: whether the record is right stands for them.
    """
    name = headline(task)
    prefix = name.partition("_")[0]
    if f"{prefix}:hit" in sheet.columns:
        hit, predicted, gold = (sheet.columns[f"{prefix}:{part}"] for part in ("hit", "predicted", "gold"))
        return [(int(h), int(p - h), int(g - h)) for h, p, g in zip(hit, predicted, gold, strict=True)]
    column = "accuracy" if name in _BY_RIGHTNESS else name
    if column not in sheet.columns:
        raise TaskError(f"task {task.name}: {name} is no sum over records; name another metric first in `metrics`.")
    return [round(min(1.0, max(0.0, float(value))), 6) for value in sheet.columns[column]]


def bootstrap(sheet: Sheet, *, resamples: int, seed: int) -> dict[str, Score]:
    """Every metric of a sheet on all records, with its interval."""
    names = list(sheet.columns)
    table = np.stack([sheet.columns[name] for name in names], axis=1)
    whole = _evaluate(sheet, names, table.sum(axis=0, keepdims=True))
    drawn = _evaluate(sheet, names, resampled_sums(table, resamples, seed)) if resamples else whole
    scores = {}
    for name in sheet.metrics:
        defined = drawn[name][~np.isnan(drawn[name])]
        low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
        scores[name] = Score(float(whole[name][0]), float(low), float(high))
    return scores


def _evaluate(sheet: Sheet, names: Sequence[str], sums: Array) -> dict[str, Array]:
    by_name = {name: sums[:, column] for column, name in enumerate(names)}
    return {name: 100.0 * metric(by_name) for name, metric in sheet.metrics.items()}


def resampled_sums(table: Array, resamples: int, seed: int) -> Array:
    """(resamples, columns): the column sums of bootstrap samples of the rows."""
    generator = np.random.default_rng(seed)
    size = len(table)
    step = max(1, _CHUNK // size)
    sums = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
        weights = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        sums.append(weights.astype(np.float64) @ table)
    return np.concatenate(sums)


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """What became of the entities. boundary: right type, spans overlap; type: same spans, other type. An entity whose
    type and border are both wrong is one missed and one spurious. Ungrounded mentions stand beside the spurious."""

    correct: int = 0
    boundary: int = 0
    type: int = 0
    missed: int = 0
    spurious: int = 0
    ungrounded: int = 0


def error_analysis(
    gold: Sequence[Record], predictions: Sequence[Prediction], labels: Sequence[str] | None = None
) -> ErrorCounts:
    """Count the errors of NER predictions (of these labels, else all). Each entity is used once: exact matches first,
    then equal spans, then overlaps of the same type, the largest overlap first."""
    kinds = labels or sorted({e.type for r in [*gold, *(p.record for p in predictions)] for e in r.entities})
    correct = boundary = wrong_type = missed = spurious = 0
    for record, prediction in zip(gold, predictions, strict=True):
        wanted, found = entity_keys(record, kinds), entity_keys(prediction.record, kinds)
        correct += len(wanted & found)
        wanted, found = wanted - found, found - wanted
        same_spans = _match(wanted, found, lambda a, b: float(a[1] == b[1]))
        overlapping = _match(wanted, found, lambda a, b: float(a[0] == b[0]) * _overlap(a[1], b[1]))
        wrong_type += same_spans
        boundary += overlapping
        missed += len(wanted)
        spurious += len(found)
    ungrounded = sum(kind in kinds for prediction in predictions for kind, _ in prediction.ungrounded)
    return ErrorCounts(correct, boundary, wrong_type, missed, spurious, ungrounded)


_Key = tuple[str, tuple[Span, ...]]


def _match(wanted: set[_Key], found: set[_Key], closeness: Callable[[_Key, _Key], float]) -> int:
    """Pair entities greedily by closeness (0: no pair), remove the pairs from both sets and count them."""
    pairs = sorted((-closeness(a, b), a, b) for a in wanted for b in found if closeness(a, b) > 0)
    count = 0
    for _, a, b in pairs:
        if a in wanted and b in found:
            wanted.remove(a)
            found.remove(b)
            count += 1
    return count


def _overlap(left: Sequence[Span], right: Sequence[Span]) -> int:
    return sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a in left for b in right)
