"""The benchmarks' metrics against scikit-learn and SciPy, and against examples worked by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import Score, contributions, score, sheet_of

LABELS = ("x", "y", "z")


def task(*metrics: str, labels: Sequence[str] = LABELS) -> TaskDefinition:
    return TaskDefinition(name="t", type="nli", labels=dict.fromkeys(labels, ""), metrics=metrics)


def scored(
    definition: TaskDefinition,
    gold: Sequence[str],
    found: Sequence[str | None],
    metas: Sequence[dict[str, Any]] | None = None,
    resamples: int = 0,
) -> dict[str, Score]:
    records = [
        Record(str(i), "t", hypothesis="h", label=label, meta=meta)
        for i, (label, meta) in enumerate(zip(gold, metas or [{}] * len(gold), strict=True))
    ]
    predictions = [Prediction(Record(str(i), "t", hypothesis="h", label=label)) for i, label in enumerate(found)]
    return score(definition, records, predictions, resamples=resamples)


pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=25)


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=30, deadline=None)
@given(pairs=pairs)
def test_matthews_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    reference = pytest.importorskip("sklearn.metrics", reason="the second opinion is scikit-learn's")
    gold, found = [a for a, _ in pairs], [b for _, b in pairs]
    ours = scored(task("matthews", "macro_f1"), gold, found)
    assert math.isclose(ours["matthews"].value, 100 * reference.matthews_corrcoef(gold, found), abs_tol=1e-6)
    assert math.isclose(ours["macro_f1"].value, 100 * reference.f1_score(gold, found, average="macro"), abs_tol=1e-6)
    binary = reference.f1_score(gold, found, labels=["x"], average="macro", zero_division=0)
    if "x" in gold + found:
        assert math.isclose(ours["class_f1/x"].value, 100 * binary, abs_tol=1e-6)


def test_matthews_by_hand() -> None:
    """TP 3, TN 1, FP 1, FN 1: (3·1 − 1·1) / √(4·4·2·2) = 2/8."""
    gold, found = ["x", "x", "x", "x", "y", "y"], ["x", "x", "x", "y", "x", "y"]
    assert scored(task("matthews"), gold, found)["matthews"].value == pytest.approx(25)
    assert scored(task("matthews"), gold, ["x"] * 6)["matthews"].value == 0
    assert scored(task("matthews"), gold, list("yyyyxx"))["matthews"].value == pytest.approx(-100)


def test_no_answer_is_a_class_of_its_own_for_matthews() -> None:
    reference = pytest.importorskip("sklearn.metrics", reason="the second opinion is scikit-learn's")
    gold, found = ["x", "x", "y", "y", "z"], ["x", None, "y", "x", None]
    expected = reference.matthews_corrcoef(gold, [f or "(none)" for f in found])
    assert scored(task("matthews"), gold, found)["matthews"].value == pytest.approx(100 * expected)


NUMBERS = tuple(f"{i / 5:.1f}" for i in range(26))
numbers = st.lists(st.tuples(st.floats(0, 5, allow_subnormal=False), st.sampled_from(NUMBERS)), min_size=3, max_size=25)


@settings(max_examples=30, deadline=None)
@given(pairs=numbers)
def test_correlations_are_scipys(pairs: list[tuple[float, str]]) -> None:
    exact, given_ = [round(a, 3) for a, _ in pairs], [float(b) for _, b in pairs]
    metas = [{"score": value} for value in exact]
    definition = task("pearson", "spearman", labels=NUMBERS)
    ours = scored(definition, ["0.0"] * len(pairs), [b for _, b in pairs], metas)
    if len(set(exact)) == 1 or len(set(given_)) == 1:
        assert math.isnan(ours["pearson"].value) and math.isnan(ours["spearman"].value)
        return
    assert ours["pearson"].value == pytest.approx(100 * stats.pearsonr(exact, given_).statistic, abs=1e-4)
    assert ours["spearman"].value == pytest.approx(100 * stats.spearmanr(exact, given_).statistic, abs=1e-4)


def test_correlations_by_hand() -> None:
    """Gold 1 2 3, predicted 1 3 2: covariance 1/2 of the variances. A missing answer counts as −1, as in T5."""
    definition = task("spearman", "pearson", labels=("1", "2", "3"))
    assert scored(definition, ["1", "2", "3"], ["1", "3", "2"])["pearson"].value == pytest.approx(50)
    assert scored(definition, ["1", "2", "3"], [None, "1", "3"])["spearman"].value == pytest.approx(100)
    found = scored(definition, ["1", "2", "3"] * 20, ["1", "3", "2"] * 20, resamples=200)
    assert next(iter(found)) == "spearman" and found["pearson"].low < 50 < found["pearson"].high
    with pytest.raises(TaskError, match="need labels that are numbers"):
        scored(task("pearson"), ["x", "y"], ["x", "x"])


def test_accuracy_of_parts_and_their_mean() -> None:
    """One of one and one of three: 2/3 as the mean of the parts, 1/2 over all."""
    metas = [{"part": "matched"}] + [{"part": "mismatched"}] * 3
    found = scored(task("part_accuracy"), ["x"] * 4, ["x", "x", "y", None], metas, resamples=50)
    assert found["accuracy/matched"].value == 100
    assert found["accuracy/mismatched"].value == pytest.approx(100 / 3)
    assert found["part_accuracy"].value == pytest.approx(200 / 3) and found["accuracy"].value == 50
    with pytest.raises(TaskError, match=r"needs `meta\.part`, which record 0 lacks"):
        scored(task("part_accuracy"), ["x"], ["x"])


def test_a_question_counts_when_all_its_answers_are_judged_right() -> None:
    """Three questions; the first has one wrong of three, its records are apart."""
    metas = [{"question": q} for q in ("a", "b", "a", "a", "c", "b")]
    gold, found = ["x", "x", "y", "y", "x", "y"], ["x", "x", "y", "x", None, "y"]
    ours = scored(task("question_match", labels=("x", "y")), gold, found, metas)
    assert ours["question_match"].value == pytest.approx(100 / 3)
    assert ours["class_f1/x"].value == pytest.approx(100 * 2 * 2 / (3 + 3)), "F1a: hits 2, predicted 3, gold 3"


def test_the_best_of_several_right_answers() -> None:
    """'the Bank of England' is 'Bank of England', because articles do not count; then one word of three."""
    options = (("1", "the Bank of England"), ("2", "Bank"), ("3", "Paris"))
    definition = TaskDefinition(name="t", type="qa", answers="options", metrics=("token_f1", "exact_match"))
    meta = {"answers": ("Bank of England", "England")}
    gold = [Record(str(i), "t", question="q", options=options, answer="1", meta=meta) for i in range(4)]
    found = [Prediction(Record(r.id, "t", options=options, answer=a)) for r, a in zip(gold, "123", strict=False)]
    found.append(Prediction(Record("3", "t", options=options)))
    ours = score(definition, gold, found, resamples=0)
    assert ours["exact_match"].value == 25 and ours["accuracy"].value == 25
    assert ours["token_f1"].value == pytest.approx(100 * (1 + 2 / 4 + 0 + 0) / 4)
    plain = [Record(r.id, r.text, question="q", options=options, answer="2") for r in gold]
    assert score(definition, plain, found, resamples=0)["exact_match"].value == 25


@pytest.mark.parametrize("metric", ["matthews", "part_accuracy", "question_match"])
def test_rightness_stands_for_metrics_that_are_no_sums(metric: str) -> None:
    records = [Record(str(i), "t", label="x", meta={"part": "p", "question": "q"}) for i in range(2)]
    found = [Prediction(Record(str(i), "t", label=label)) for i, label in enumerate("xy")]
    assert contributions(task(metric), sheet_of(task(metric), records, found)) == [1.0, 0.0]


def test_metrics_that_are_not_named_are_not_computed() -> None:
    assert set(scored(task(), ["x", "y"], ["x", "x"])) == {"accuracy", "macro_f1", "class_f1/x", "class_f1/y"}
    assert np.isfinite(scored(task(), ["x", "y"], ["x", "x"])["macro_f1"].value)
