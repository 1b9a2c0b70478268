"""Cells laid out: order, averages in which each target counts once, what is missing, what may not be mixed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clinprompt.errors import ResultsError
from clinprompt.experiments.board import Board, lay_out, recomputed, stat
from clinprompt.experiments.comparisons import compare, paired_differences
from clinprompt.experiments.results import Cell, Planned, Results
from tests.experiments import board as made

TWO = ("e3c", "headqa")


def laid(cells: list[Cell], **choices: str) -> Board:
    return lay_out(Results(cells), **choices)


def valued(target: str, method: str, score: float, **more: int) -> Cell:
    """A cell whose headline is this score, whatever its records say."""
    cell = made.cell(target, method, 0.5, n=10, **more)
    return cell.model_copy(update={"metrics": {cell.headline: (score, score, score)}})


def test_order_of_targets_and_methods() -> None:
    cells = [
        made.cell(t, m, 0.5)
        for t in ("headqa", "e3c")
        for m in ("lora", "mine", "mpt-no-distillation", "mpt", "spot", "pt")
    ]
    board = laid(cells)
    assert board.targets == ("e3c", "headqa")
    assert board.methods == ("pt", "spot", "mpt", "mpt-no-distillation", "lora", "mine")
    assert board.main_methods == ("pt", "spot", "mpt", "lora", "mine") and board.ablations == ("mpt-no-distillation",)
    assert board.reference == "mpt" and laid(cells, reference="lora").reference == "lora"


def test_an_average_counts_each_target_once_and_its_deviation_is_that_of_whole_runs() -> None:
    cells = [
        valued("e3c", "mpt", 10.0, seed=0),
        valued("e3c", "mpt", 20.0, seed=1),
        valued("headqa", "mpt", 40.0, seed=0),
    ]
    board = laid(cells)
    assert stat(board.scores("e3c", "mpt")).mean == 15.0
    average = board.average("mpt", TWO)
    assert average is not None and average.mean == pytest.approx(27.5), "not 23.3, the mean over cells"
    assert math.isnan(average.sd) and average.runs == 1
    both = laid([*cells, valued("headqa", "mpt", 50.0, seed=1)]).average("mpt", TWO)
    assert both is not None and both.sd == pytest.approx(np.std([25.0, 35.0], ddof=1))
    assert board.average("mpt", ("e3c", "scinli")) is None


def test_what_is_missing() -> None:
    cells = made.grid({"mpt": 0.5, "pt": 0.4}, targets=TWO, seeds=(0, 1), n=5)
    kept = [c for c in cells if c.key != ("headqa", "pt", "full", 0, 1)]
    assert laid(cells).missing == ()
    assert laid(kept).missing == (("headqa", "pt", "full", 0, 1),)
    plan = Planned(cells=(("e3c", "mpt", "full", 0, 0), ("e3c", "lora", 5, 2, 0)))
    board = Board(Results(cells, planned=set(plan.cells)), tuple(cells), "mpt")
    assert board.missing == (("e3c", "lora", 5, 2, 0),)


def test_a_method_without_the_tables_shots_shows_its_own() -> None:
    cells = [made.cell("e3c", "mpt", 0.5), made.cell("e3c", "zero-shot", 0.1, shots=0)]
    cells += [made.cell("e3c", "in-context", 0.2, shots=k) for k in (1, 5)]
    board = laid(cells)
    assert board.main_shots == "full"
    assert [board.shots_shown(m) for m in ("mpt", "zero-shot", "in-context")] == ["full", 0, 5]
    assert board.few_shot_methods == ("in-context",)


def test_records_give_back_the_score() -> None:
    for target in ("e3c", "headqa", "open-i"):
        cell = made.cell(target, "pt", 0.6)
        assert recomputed(cell) == pytest.approx(cell.value, abs=1e-3)


def test_what_cannot_stand_in_one_report_is_refused() -> None:
    one = made.cell("e3c", "mpt", 0.5)
    other = one.model_copy(update={"id": "x", "backbone": "big"})
    with pytest.raises(ResultsError, match=r"2 backbones: big, embedded\. Choose one with --backbone"):
        laid([one, other])
    assert laid([one, other], backbone="big").cells == (other,)
    with pytest.raises(ResultsError, match=r"unknown backbone 'bigg'\. Did you mean 'big'"):
        laid([one, other], backbone="bigg")
    with pytest.raises(ResultsError, match=r"unknown method 'mtp'\. Did you mean 'mpt'"):
        laid([one], reference="mtp")
    with pytest.raises(ResultsError, match="no results"):
        laid([])
    with pytest.raises(ResultsError, match="e3c were scored on different test records"):
        laid([one, made.cell("e3c", "pt", 0.5, n=20)])


def test_pairs_are_runs_of_the_same_draw_and_seed() -> None:
    a = [valued("e3c", "mpt", 10.0 + s, seed=s) for s in range(3)]
    b = [valued("e3c", "pt", 4.0, seed=s) for s in (1, 2, 5)]
    assert paired_differences(a, b).tolist() == [7.0, 8.0]
    assert len(paired_differences(a, [])) == 0


def test_an_untrained_method_stands_against_every_run() -> None:
    a = [valued("e3c", "mpt", 10.0 + s, seed=s) for s in range(3)]
    zero = [valued("e3c", "zero-shot", 2.0)]
    assert paired_differences(a, zero).tolist() == [8.0, 9.0, 10.0]
    assert paired_differences(zero, a).tolist() == [-8.0, -9.0, -10.0]
    shown = [valued("e3c", "in-context", v, shots=5, draw=d) for d, v in enumerate((1.0, 3.0))]
    assert paired_differences(a, shown).tolist() == [8.0, 9.0, 10.0]


def test_a_known_effect_is_found_and_a_null_is_not() -> None:
    cells = made.grid({"pt": 0.35, "mpt": 0.5, "lora": 0.5}, seeds=(0, 1, 2))
    found = {c.other: c for c in compare(laid(cells), ["pt", "lora"], resamples=500)}
    assert found["pt"].significant and found["pt"].mean.low > 0 and found["pt"].over_runs.pairs == 30
    assert found["pt"].over_targets_holm < 0.05
    assert not found["lora"].significant and found["lora"].mean.low < 0 < found["lora"].mean.high
    assert all(c.over_runs_holm >= c.over_runs.p for c in found.values())
    tests = [t for c in found.values() for t in c.on_targets]
    assert len(tests) == 20 and all(t.holm >= t.difference.p for t in tests)
    assert sum(t.holm < 0.05 for t in found["pt"].on_targets) > sum(t.holm < 0.05 for t in found["lora"].on_targets)


def test_targets_without_the_other_method_are_left_out() -> None:
    cells = made.grid({"mpt": 0.5}, targets=TWO, n=5) + made.grid({"pt": 0.5}, targets=("e3c",), n=5)
    cells += [made.cell("scinli", "lora", 0.5, n=5)]
    (found,) = compare(laid(cells), ["pt", "lora"], on_targets=False)
    assert found.other == "pt" and found.targets == ("e3c",) and math.isnan(found.mean.low)


def test_one_place_under_two_protocols_is_refused() -> None:
    first = made.cell("e3c", "mpt", 0.5)
    second = first.model_copy(update={"id": "another"})
    with pytest.raises(ResultsError, match=rf"mpt on e3c .*two protocols: cells {first.id} and another"):
        laid([first, second])
    assert laid([first, made.cell("e3c", "mpt", 0.5, seed=1)]).missing == ()


def test_fewer_examples_never_stand_in_for_planned_ones() -> None:
    cells = [
        made.cell("e3c", "pt", 0.5),
        made.cell("e3c", "mpt", 0.5, shots=5),
        made.cell("e3c", "zero-shot", 0.3, shots=0),
    ]
    wanted = {(c.target, c.method, c.shots, c.draw, c.seed) for c in cells}
    assert lay_out(Results(cells, planned=wanted)).shots_shown("mpt") == 5  # a plan without them
    planned = lay_out(Results(cells, planned=wanted | {("e3c", "mpt", "full", 0, 0)}))
    assert planned.shots_shown("mpt") == "full" and planned.runs("e3c", "mpt") == []
    assert planned.shots_shown("zero-shot") == 0 and planned.main_methods == ("zero-shot", "pt")
    assert planned.average("mpt", ("e3c",)) is None and compare(planned, ["pt", "zero-shot"]) == []
