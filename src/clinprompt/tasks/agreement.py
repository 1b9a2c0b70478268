"""Metrics of the general benchmarks: correlations, accuracy per part, and scores over several right answers.

Computed only for tasks that name them in `metrics`. As all metrics they are functions of column sums (see
`clinprompt.tasks.scoring`), so that one bootstrap serves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.qa import gold_answer
from clinprompt.tasks.scoring import Array, Metric, Sheet, answer_words, divide, token_f1

NO_NUMBER = -1.0
"""What an answer that is no number counts as in a correlation, as in T5's evaluation."""


def add_agreement(
    sheet: Sheet, task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]
) -> None:
    """Add the metrics of this module that `task.metrics` names to the sheet of a task with closed answers.

    Raises TaskError where the records lack what a metric needs (`meta` of `part`, `question`, or numbers as labels).
    """
    named = set(task.metrics)
    found = [prediction.record for prediction in predictions]
    if "matthews" in named:
        sheet.metrics["matthews"] = _matthews(sheet)
    if "pearson" in named or "spearman" in named:
        _add_correlations(sheet, task, gold, found)
    if "part_accuracy" in named:
        _add_parts(sheet, task, gold)
    if "question_match" in named:
        _add_question_match(sheet, task, gold)
    if task.type == "qa" and task.answer_kind == "options" and named & {"token_f1", "exact_match"}:
        _add_best_answer(sheet, gold, found)


def _matthews(sheet: Sheet) -> Metric:
    """Matthews' correlation from the marginals of the confusion matrix, for any number of classes (R_K of Gorodkin
    2004, as scikit-learn computes it); 0 where gold or prediction is constant. No answer is a class of its own."""
    classes = [name.partition("/")[2] for name in sheet.columns if name.startswith("class:gold/")]

    def metric(sums: Mapping[str, Array]) -> Array:
        n = sums["records"]
        predicted = np.stack([sums[f"class:predicted/{c}"] for c in classes])  # (classes, resamples)
        true = np.stack([sums[f"class:gold/{c}"] for c in classes])
        unanswered = n - predicted.sum(axis=0)
        right = np.stack([sums[f"class:hit/{c}"] for c in classes]).sum(axis=0)
        covariance = right * n - (predicted * true).sum(axis=0)
        spread_predicted = n**2 - (predicted**2).sum(axis=0) - unanswered**2
        spread_true = n**2 - (true**2).sum(axis=0)
        return divide(covariance, np.sqrt(spread_predicted * spread_true))

    return metric


def _add_correlations(sheet: Sheet, task: TaskDefinition, gold: Sequence[Record], found: Sequence[Record]) -> None:
    """Pearson and Spearman of the numbers that labels spell; gold is the exact number where `meta` keeps one.

    Spearman is Pearson of the ranks (ties share their mean rank) among all records; its interval keeps these ranks.
    """
    try:
        wanted = np.array([float(r.meta.get("score", r.label)) for r in gold])
    except (TypeError, ValueError):
        raise TaskError(f"task {task.name}: pearson and spearman need labels that are numbers.") from None
    given = np.array([_number(record.label) for record in found])
    _add_correlation(sheet, "pearson", wanted, given)
    _add_correlation(sheet, "spearman", rankdata(wanted), rankdata(given))


def _number(label: str | None) -> float:
    try:
        return float(label or "")
    except ValueError:
        return NO_NUMBER


def _add_correlation(sheet: Sheet, name: str, x: Array, y: Array) -> None:
    """Pearson's correlation of two columns; nan where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()  # sums of squares of small numbers lose no digits
    products = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    for part, values in products.items():
        sheet.columns[f"{name}:{part}"] = values
    sheet.column("records")[:] = 1

    def metric(sums: Mapping[str, Array]) -> Array:
        n = sums["records"]
        sx, sy, sxx, syy, sxy = (sums[f"{name}:{part}"] for part in products)
        spread = np.maximum(n * sxx - sx**2, 0) * np.maximum(n * syy - sy**2, 0)
        constant = spread <= (1e-12 * n**2) ** 2  # rounding leaves no exact 0
        return np.where(constant, np.nan, divide(n * sxy - sx * sy, np.sqrt(spread), np.nan))

    sheet.metrics[name] = metric


def _add_parts(sheet: Sheet, task: TaskDefinition, gold: Sequence[Record]) -> None:
    """Accuracy per part (``accuracy/matched``), and the mean of these over the parts: MNLI on GLUE's leaderboard."""
    parts = sorted({_meta(task, record, "part", "part_accuracy") for record in gold})
    right = sheet.columns["accuracy"]
    for part in parts:
        inside = np.array([float(record.meta["part"] == part) for record in gold])
        sheet.columns[f"part:n/{part}"] = inside
        sheet.columns[f"part:right/{part}"] = inside * right
        sheet.metrics[f"accuracy/{part}"] = _share(f"part:right/{part}", f"part:n/{part}")

    def mean(sums: Mapping[str, Array]) -> Array:
        shares = [divide(sums[f"part:right/{p}"], sums[f"part:n/{p}"], np.nan) for p in parts]
        return np.asarray(np.nanmean(np.stack(shares), axis=0), dtype=np.float64)

    sheet.metrics["part_accuracy"] = mean


def _share(numerator: str, denominator: str) -> Metric:
    return lambda sums: divide(sums[numerator], sums[denominator], np.nan)


def _add_question_match(sheet: Sheet, task: TaskDefinition, gold: Sequence[Record]) -> None:
    """The share of questions whose candidate answers are all judged right: MultiRC's exact match (Khashabi et al.).

    A question is counted at its first record. Where records are a sample, a question is judged by those in it.
    """
    first: dict[str, int] = {}
    count, all_right = np.zeros(len(gold)), np.zeros(len(gold))
    for row, record in enumerate(gold):
        place = first.setdefault(_meta(task, record, "question", "question_match"), row)
        right = sheet.columns["accuracy"][row]
        if place == row:
            count[row], all_right[row] = 1, right
        else:
            all_right[place] = min(all_right[place], right)
    sheet.columns["question:n"], sheet.columns["question:right"] = count, all_right
    sheet.metrics["question_match"] = _share("question:right", "question:n")


def _add_best_answer(sheet: Sheet, gold: Sequence[Record], found: Sequence[Record]) -> None:
    """Token F1 and exact match of the chosen option's text, the best over all right answers (ReCoRD, Zhang et al. 2018;
    words as SQuAD's evaluation sees them). `meta` keeps the right answers; without it, the gold option is the only one.
    """
    matches, overlaps = [], []
    for record, prediction in zip(gold, found, strict=True):
        texts = dict(record.options)
        right = [answer_words(text) for text in record.meta.get("answers") or [texts[gold_answer(record) or ""]]]
        chosen = answer_words(texts.get(gold_answer(prediction) or "", ""))
        matches.append(float(chosen in right))
        overlaps.append(max(token_f1(words, chosen) for words in right))
    sheet.add_mean("token_f1", overlaps)
    sheet.add_mean("exact_match", matches)


def _meta(task: TaskDefinition, record: Record, key: str, metric: str) -> str:
    if not record.meta.get(key):
        raise TaskError(f"task {task.name}: the metric {metric} needs `meta.{key}`, which record {record.id} lacks.")
    return str(record.meta[key])
