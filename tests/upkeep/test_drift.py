"""Slices of a corpus are compared fairly: no change is found where there is none, and a planted decay is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from clinprompt.errors import TaskError
from clinprompt.records import Entity, Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import score
from clinprompt.tasks.scoring import Sheet
from clinprompt.upkeep.drift import Drift, compare, drift
from clinprompt.upkeep.plot import drift_svg
from clinprompt.upkeep.slices import Slicing

YEARS = ["2019", "2020", "2021", "2022"]
PLACES = [2019.0, 2020.0, 2021.0, 2022.0]
NLI = TaskDefinition(name="infer", type="nli", labels={"yes": "", "no": ""}, metrics=("accuracy",))
NER = TaskDefinition(name="find", type="ner", labels={"Problem": ""})


def means(values: np.ndarray, labels: list[str], units: list[str] | None = None, **options: object) -> Drift:
    sheet = Sheet(len(values))
    sheet.add_mean("value", values.tolist())
    units = units or [str(i) for i in range(len(values))]
    return compare(sheet, "value", labels, units, YEARS, PLACES, **options)


def labelled(n: int) -> list[str]:
    return [YEARS[i % 4] for i in range(n)]


def test_p_values_are_uniform_under_the_null() -> None:
    generator = np.random.default_rng(0)
    found = []
    for seed in range(100):
        values = generator.normal(0.5, 0.1, 60)
        found.append(means(values, labelled(60), permutations=199, seed=seed))
    for ps in (
        [f.difference_p for f in found],
        [f.trend.p for f in found if f.trend],
        [f.slices[2].p for f in found],
    ):
        assert stats.kstest(ps, "uniform").pvalue > 0.001
    false_alarms = np.mean([f.drifted for f in found])
    assert stats.binomtest(round(false_alarms * 100), 100, 0.05).pvalue > 0.001
    wrong_slices = sum(any(s.adjusted_p is not None and s.adjusted_p < 0.05 for s in f.slices) for f in found)
    assert stats.binomtest(wrong_slices, 100, 0.05, alternative="greater").pvalue > 0.001


def test_patients_are_dealt_whole() -> None:
    """Records of a patient resemble each other: taken one by one they would raise false alarms."""
    generator = np.random.default_rng(1)
    together, apart = [], []
    for seed in range(50):
        of_patient = generator.normal(0.5, 0.2, 24).repeat(10)  # 6 patients of 10 records in each year
        values = of_patient + generator.normal(0, 0.02, 240)
        labels = np.array(YEARS).repeat(60).tolist()
        patients = [str(i // 10) for i in range(240)]
        together.append(means(values, labels, patients, permutations=99, seed=seed).difference_p)
        apart.append(means(values, labels, permutations=99, seed=seed).difference_p)
    assert stats.kstest(together, "uniform").pvalue > 0.001
    assert np.mean(np.array(apart) < 0.05) > 0.5


def test_a_planted_decay_is_found_and_its_slope_is_right() -> None:
    generator = np.random.default_rng(2)
    labels = labelled(400)
    right = np.array([generator.random() < 0.9 - 0.12 * YEARS.index(label) for label in labels], dtype=float)
    found = means(right, labels)
    assert found.drifted and found.trend is not None
    assert found.trend.p < 0.01 and -18 < found.trend.slope < -6
    by_name = {s.name: s for s in found.slices}
    assert (by_name["2022"].adjusted_p or 1) < 0.05 and (by_name["2022"].difference or 0) < 0


def test_the_same_as_scipy() -> None:
    generator = np.random.default_rng(3)
    values, labels = generator.random(40), [YEARS[i % 2] for i in range(40)]
    found = means(values, labels, permutations=9999)
    first, second = values[::2], values[1::2]
    expected = stats.permutation_test(
        (first, second), lambda a, b, axis: a.mean(axis) - b.mean(axis), vectorized=True, n_resamples=9999, rng=4
    )
    assert found.slices[0].p == pytest.approx(expected.pvalue, abs=0.02)
    assert found.difference_p == pytest.approx(expected.pvalue, abs=0.02)
    assert found.slices[0].difference == pytest.approx(100 * (first.mean() - second.mean()))
    # Weighted least squares over slices' means = ordinary least squares over records.
    labels = generator.choice(YEARS, 80).tolist()
    values = generator.random(80)
    trend = means(values, labels, permutations=100).trend
    line = stats.linregress([float(label) for label in labels], 100 * values)
    assert trend is not None and trend.slope == pytest.approx(line.slope)


def ner_records(n: int, wrong: set[int]) -> tuple[list[Record], list[Prediction]]:
    gold = [Record(f"r{i}", "has fever now", entities=(Entity("e", "Problem", ((4, 9),)),)) for i in range(n)]
    bad = Entity("e", "Problem", ((0, 3),))
    answers = [
        Prediction(Record(r.id, r.text, entities=(bad,) if i in wrong else r.entities)) for i, r in enumerate(gold)
    ]
    return gold, answers


def test_slices_are_scored_as_evaluate_scores_them() -> None:
    gold, answers = ner_records(40, {1, 2, 5, 30})
    labels = [None if i >= 36 else "late" if i >= 18 else "early" for i in range(40)]
    found = drift(NER, gold, answers, Slicing(tuple(labels), ("early", "late"), (1.0, 2.0)), permutations=100)
    assert found.metric == "strict_f1" and found.n == 36 and found.missing == 4
    for one, rows in zip(found.slices, (slice(0, 18), slice(18, 36)), strict=True):
        expected = score(NER, gold[rows], answers[rows])["strict_f1"]
        assert one.n == 18 and one.score == expected
    assert found.score == score(NER, gold[:36], answers[:36])["strict_f1"]


def test_small_slices_are_scored_and_not_tested() -> None:
    gold, answers = ner_records(25, {1})
    labels = tuple("b" if i < 3 else "a" for i in range(25))
    found = drift(NER, gold, answers, Slicing(labels, ("a", "b")), permutations=100)
    assert found.difference_p is None and found.trend is None and not found.drifted
    assert [s.p for s in found.slices] == [None, None] and found.slices[1].n == 3
    with pytest.raises(TaskError, match="none of the 2 records"):
        drift(NER, gold[:2], answers[:2], Slicing((None, None), ()))


def test_the_same_seed_gives_the_same_p() -> None:
    values, labels = np.random.default_rng(5).random(60), labelled(60)
    assert means(values, labels, seed=1).summary() == means(values, labels, seed=1).summary()


def test_the_plot_shows_every_slice_and_escapes_names() -> None:
    gold, answers = ner_records(40, set(range(20)))
    labels = tuple("<A&E>" if i < 20 else "ward" for i in range(40))
    found = drift(NER, gold, answers, Slicing(labels, ("<A&E>", "ward")), permutations=200)
    assert found.drifted and found.trend is None
    svg = drift_svg(found, "find by site")
    assert "&lt;A&amp;E&gt; (n=20)" in svg and "ward (n=20)" in svg and "<A&E>" not in svg
    assert svg.count("<g>") == 2 and 'width="10"' in svg
