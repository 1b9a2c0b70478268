"""Tests of significance against SciPy, by hand, and by simulation: nothing comes out where there is nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clinprompt.experiments.significance import (
    Array,
    holm,
    mean_effect,
    micro_f1,
    paired_bootstrap,
    rank_biserial,
    rank_effect,
    signed_rank,
)

RANDOM = np.random.default_rng


# -- Wilcoxon --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 8, 20, 50])
def test_signed_rank_is_scipys_exact_test(n: int) -> None:
    values = RANDOM(n).normal(0.4, 1, size=n)
    assert signed_rank(values).p == pytest.approx(stats.wilcoxon(values, method="exact").pvalue, rel=1e-9)


def test_signed_rank_of_many_pairs_is_scipys_approximation() -> None:
    values = RANDOM(0).normal(0.2, 1, size=120)
    assert signed_rank(values).p == pytest.approx(stats.wilcoxon(values).pvalue, rel=1e-9)


def test_signed_rank_with_ties_counts_every_assignment_of_signs() -> None:
    values = np.array([1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -2.0, 4.0, 0.0, 1.0])
    kept = values[values != 0]
    ranks = stats.rankdata(np.abs(kept))
    observed = abs(ranks[kept > 0].sum() - ranks.sum() / 2)
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in itertools.product((0, 1), repeat=9)
    ]
    by_hand = np.mean([abs(s - ranks.sum() / 2) >= observed - 1e-9 for s in sums])
    found = signed_rank(values)
    assert found.p == pytest.approx(by_hand) and (found.pairs, found.zeros) == (10, 1)
    assert found.remark == "1 of 10 differences are 0 and left out"


def test_ties_that_rounding_parted_are_ties() -> None:
    exact = [0.5, -0.5, 1.0, 0.5, 2.0, 0.25]
    noisy = [x + 1e-12 * i for i, x in enumerate(exact)]
    assert signed_rank(noisy).p == signed_rank(exact).p


@pytest.mark.parametrize(
    ("values", "p", "remark"),
    [
        ([], 1.0, "no pairs"),
        ([0.0, 0.0, 0.0], 1.0, "all differences are 0"),
        ([3.0], 1.0, "1 non-zero differences cannot give p below 1"),
        ([1.0, 2.0, 3.0, 4.0], 0.125, "4 non-zero differences cannot give p below 0.125"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.0625, "5 non-zero differences cannot give p below 0.0625"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.03125, ""),
    ],
)
def test_few_pairs_say_that_they_are_few(values: list[float], p: float, remark: str) -> None:
    found = signed_rank(values)
    assert found.p == pytest.approx(p) and found.remark == remark


@given(st.lists(st.integers(-4, 4), max_size=30))
@settings(max_examples=60, deadline=None)
def test_signed_rank_does_not_care_for_order_sign_or_scale(values: list[int]) -> None:
    p = signed_rank(np.array(values, dtype=float)).p
    assert 0 < p <= 1
    assert signed_rank(np.array(values[::-1], dtype=float)).p == pytest.approx(p)
    assert signed_rank(-0.5 * np.array(values, dtype=float)).p == pytest.approx(p)


# -- paired bootstrap ------------------------------------------------------------------------------------


def test_micro_f1_is_counted_anew_in_every_resample() -> None:
    random = RANDOM(1)
    a, b = (random.integers(0, 5, size=(2, 30, 3)).astype(float) for _ in range(2))
    found = paired_bootstrap(a, b, resamples=400, seed=3)

    def f1(counts: Array) -> float:
        tp, fp, fn = counts.sum(axis=0)
        return float(100 * 2 * tp / (2 * tp + fp + fn))

    def difference(rows: Array) -> float:
        rows = rows.astype(int)
        return float(np.mean([f1(run[rows]) for run in a]) - np.mean([f1(run[rows]) for run in b]))

    assert found.value == pytest.approx(difference(np.arange(30.0)))
    generator = RANDOM(99)  # another stream: the same distribution up to the noise of resampling
    slow = [difference(generator.integers(30, size=30).astype(float)) for _ in range(2000)]
    low, high = np.percentile(slow, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=1.5) and found.high == pytest.approx(high, abs=1.5)


def test_means_agree_with_scipys_bootstrap_and_paired_t_test() -> None:
    random = RANDOM(5)
    b = random.random(200)
    a = np.clip(b + random.normal(0.03, 0.2, size=200), 0, 1)
    found = paired_bootstrap(a[None], b[None], resamples=4000)
    slow = stats.bootstrap((100 * (a - b),), np.mean, method="percentile", random_state=RANDOM(0), n_resamples=4000)
    assert found.low == pytest.approx(slow.confidence_interval.low, abs=0.3)
    assert found.high == pytest.approx(slow.confidence_interval.high, abs=0.3)
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)


def test_equal_methods_have_p_of_one_and_different_records_are_refused() -> None:
    a = RANDOM(0).random((3, 40))
    found = paired_bootstrap(a, a, resamples=200)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="records differ"):
        paired_bootstrap(a, a[:, :39], resamples=10)


def test_numbers_of_runs_may_differ() -> None:
    a = RANDOM(0).random((3, 40))
    found = paired_bootstrap(a, a.mean(axis=0, keepdims=True), resamples=100)
    assert found.value == pytest.approx(0, abs=1e-9) and found.p == 1.0


def test_f1_of_nothing_is_zero() -> None:
    assert micro_f1(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])).tolist() == [0.0, 1.0]


def rejections(test: str, effect: float, *, times: int, alpha: float = 0.05) -> float:
    """How often a test rejects when two methods of this difference in skill are compared."""
    random, count = RANDOM(11), 0
    for i in range(times):
        if test == "signed rank":
            count += signed_rank(random.normal(effect, 1.0, size=30)).p < alpha
            continue
        hard = random.normal(size=120)
        a, b = ((random.random((1, 120)) < 1 / (1 + np.exp(hard - x))).astype(float) for x in (effect, 0.0))
        if test == "bootstrap of counts":
            a, b = (
                np.stack([run, 1 - run, random.integers(0, 2, size=(1, 120)) * (1 - run)], axis=-1) for run in (a, b)
            )
        count += paired_bootstrap(a, b, resamples=400, seed=i).p < alpha
    return count / times


@pytest.mark.parametrize("test", ["signed rank", "bootstrap", "bootstrap of counts"])
def test_a_null_effect_comes_out_null(test: str) -> None:
    times = 400
    found = rejections(test, 0.0, times=times)
    spread = math.sqrt(0.05 * 0.95 / times)
    assert 0.05 - 3.5 * spread < found < 0.05 + 3.5 * spread, "false positives near alpha"


@pytest.mark.parametrize(("test", "effect"), [("signed rank", 1.0), ("bootstrap", 1.2), ("bootstrap of counts", 1.2)])
def test_a_real_effect_is_found(test: str, effect: float) -> None:
    assert rejections(test, effect, times=60) > 0.9


# -- effect sizes ----------------------------------------------------------------------------------------


def test_rank_biserial_by_hand() -> None:
    assert rank_biserial([1.0, 2.0, 3.0]) == 1.0 and rank_biserial([-1.0, -5.0]) == -1.0
    assert rank_biserial([1.0, -2.0, 3.0, 4.0]) == pytest.approx((1 + 3 + 4 - 2) / 10)
    assert rank_biserial([]) == rank_biserial([0.0, 0.0]) == 0.0


def test_effects_cover_the_truth_and_count_each_target_once() -> None:
    groups = [np.array([1.0] * 100), np.array([3.0]), np.array([2.0, 2.0])]
    assert mean_effect(groups).value == 2.0
    random, covered = RANDOM(2), 0
    for i in range(100):
        found = mean_effect([random.normal(1.5, 1.0, size=3) for _ in range(12)], seed=i)
        covered += found.low <= 1.5 <= found.high
    assert covered >= 84


def test_effects_of_few_or_equal_targets() -> None:
    two = mean_effect([np.array([1.0]), np.array([2.0])])
    assert two.value == 1.5 and math.isnan(two.low) and math.isnan(two.high)
    same = mean_effect([np.array([1.0])] * 4)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    rank = rank_effect([np.array([1.0, 2.0])] * 4)
    assert (rank.value, rank.low, rank.high) == (1.0, 1.0, 1.0)
    assert math.isnan(rank_effect([np.array([1.0])]).low)
    mixed = rank_effect([np.array([1.0, -2.0]), np.array([3.0]), np.array([-1.0]), np.array([2.0])])
    assert mixed.low < mixed.value < mixed.high


# -- families --------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    """Sorted: .01 .02 .03 .04 → .04 .06 .06 .06."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.01, 0.04, 0.5, 0.6, 0.9]) == pytest.approx([0.05, 0.16, 1.0, 1.0, 1.0])
    assert holm([]) == [] and holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=80, deadline=None)
def test_holm_rejects_step_by_step(p: list[float]) -> None:
    """The definition: from the smallest on, reject while p ≤ alpha / (m − i + 1); stop at the first that is not."""
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for i, index in enumerate(sorted(range(len(p)), key=lambda j: p[j])):
            if p[index] * (len(p) - i) > alpha:
                break
            rejected.add(index)
        assert rejected == {i for i, q in enumerate(adjusted) if q <= alpha}


def test_a_family_of_nulls_gives_few_false_findings() -> None:
    random = RANDOM(4)
    found = np.mean([min(holm(list(random.random(8)))) < 0.05 for _ in range(2000)])
    assert found < 0.065
    assert np.mean([min(random.random(8)) < 0.05 for _ in range(2000)]) > 0.3, "what it protects from"


def test_draws_of_one_target_are_no_independent_witnesses() -> None:
    """Where the advantage varies between targets around 0, the test over targets × draws finds too much and the test
    over targets does not: why the report shows both."""
    random, runs, targets = RANDOM(8), 0, 0
    for _ in range(300):
        groups = random.normal(0, 1, size=(10, 1)) + random.normal(0, 0.3, size=(10, 5))
        runs += signed_rank(groups.ravel()).p < 0.05
        targets += signed_rank(groups.mean(axis=1)).p < 0.05
    assert runs / 300 > 0.2 and targets / 300 < 0.09
