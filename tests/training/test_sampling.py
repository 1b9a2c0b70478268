"""Samplers: the distribution they promise, every example once an epoch, and no hidden state."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.training.sampling import SIZE_CAP, RowSampler, TaskSampler, endless, stream


def sampler(sizes: list[int], batch: int = 24, seed: int = 0, most: int = 5, stochastic: bool = True) -> TaskSampler:
    return TaskSampler([f"t{i}" for i in range(len(sizes))], sizes, batch, seed, most, stochastic)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=8),
    st.integers(1, 40),
    st.integers(2, 9),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_a_batch_is_full_and_valid(sizes: list[int], batch: int, most: int, step: int, stochastic: bool) -> None:
    picks = sampler(sizes, batch, most=most, stochastic=stochastic).step(step, range(len(sizes)))
    assert len(picks) == batch
    assert all(pick.row == pick.task and 0 <= pick.example < sizes[pick.task] for pick in picks)


def test_number_of_tasks_is_uniform_between_two_and_kappa() -> None:
    """With far more tasks than draws, repeats are rare, so the number of distinct tasks shows K."""
    many = sampler([100] * 5000, batch=20, most=5)
    counts = Counter(len({pick.task for pick in many.step(step, [])}) for step in range(2000))
    assert set(counts) <= {1, 2, 3, 4, 5}
    for tasks in (2, 3, 4, 5):
        assert counts[tasks] / 2000 == pytest.approx(0.25, abs=0.04)


def test_shares_are_equal_and_one_draw_gets_the_remainder() -> None:
    many = sampler([100] * 5000, batch=23, most=5)
    seen = set()
    for step in range(300):
        shares = sorted(Counter(pick.task for pick in many.step(step, [])).values())
        tasks = len(shares)
        if tasks >= 2:
            assert shares == sorted([23 // tasks] * (tasks - 1) + [23 // tasks + 23 % tasks])
            seen.add(tasks)
    assert seen == {2, 3, 4, 5}


@pytest.mark.parametrize("stochastic", [True, False])
def test_tasks_come_in_proportion_to_their_capped_size(stochastic: bool) -> None:
    sizes = [SIZE_CAP * 8, SIZE_CAP, SIZE_CAP // 2]
    mixed = sampler(sizes, batch=12, most=4, stochastic=stochastic)
    counts = Counter(pick.task for step in range(4000) for pick in mixed.step(step, []))
    shares = np.array([counts[task] for task in range(3)]) / sum(counts.values())
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.2], atol=0.02)


def test_without_stochastic_sampling_batches_mix_all_tasks() -> None:
    tasks = {pick.task for pick in sampler([100] * 50, batch=100, most=2, stochastic=False).step(0, [])}
    assert len(tasks) > 30


@pytest.mark.parametrize("kind", ["task", "row"])
def test_a_step_is_a_function_of_its_number(kind: str) -> None:
    def make() -> TaskSampler | RowSampler:
        if kind == "task":
            return sampler([5, 7, 9])
        return RowSampler([0, 1, 2], [5, 7, 9], ["a", "b", "c"], [0, 0, 1], 4)

    one, other = make(), make()
    forwards = {step: one.step(step, [0, 1, 2]) for step in range(30)}
    assert {step: other.step(step, [0, 1, 2]) for step in reversed(range(30))} == forwards
    assert len({tuple(picks) for picks in forwards.values()}) == 30


def test_seeds_differ() -> None:
    assert sampler([50, 50], seed=0).step(3, []) != sampler([50, 50], seed=1).step(3, [])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_every_epoch_covers_every_example_once(size: int, batch: int, seed: int) -> None:
    rows = RowSampler([0], [size], ["key"], [seed], batch)
    count = min(batch, size)
    drawn = [pick.example for step in range(3 * size) for pick in rows.step(step, [0])]
    assert len(drawn) == 3 * size * count
    for epoch in range(3 * count):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_a_row_draws_the_same_alone_and_in_a_crowd() -> None:
    crowd = RowSampler([0, 1, 0, 1], [9, 14], ["a", "b", "c", "d"], [0, 1, 2, 1], 4)
    alone = RowSampler([0], [14], ["d"], [1], 4)
    for step in range(10):
        wanted = [pick.example for pick in alone.step(step, [0])]
        for active in ([0, 1, 2, 3], [3], [1, 3]):
            assert [p.example for p in crowd.step(step, active) if p.row == 3] == wanted
    assert {pick.row for pick in crowd.step(0, [1, 2])} == {1, 2}


def test_epochs_are_shuffled_anew() -> None:
    epochs = [endless(0, "key", 20, 20 * epoch, 20) for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert endless(0, "key", 20, 15, 10) == [*epochs[0][15:], *epochs[1][:5]]


def test_streams_depend_on_every_name_and_on_nothing_else() -> None:
    """Fixed numbers: another machine, process or NumPy must draw the same."""
    assert stream(0, "a", "bc").integers(1000) == stream(0, "a", "bc").integers(1000)
    draws = {tuple(stream(*key).integers(10**9, size=2).tolist()) for key in [(0, "a", "bc"), (0, "ab", "c"), (1, "a")]}
    assert len(draws) == 3
