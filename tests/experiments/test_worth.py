"""Does the metaprompt pay? Only when a target becomes cheaper by it, and after the number of targets that says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinprompt.experiments.board import Board, lay_out
from clinprompt.experiments.cost_sections import payback
from clinprompt.experiments.results import Cell, MetaLine, Results
from clinprompt.experiments.worth import break_even, examples_saved, worth
from tests.experiments import board as made


@given(st.floats(0, 1e6), st.floats(0.1, 1e3), st.floats(0.1, 1e3))
def test_break_even_is_the_first_number_of_targets_that_is_cheaper(learn: float, mine: float, theirs: float) -> None:
    found = break_even(learn, mine, theirs)
    if found is None:
        assert theirs <= mine
        return
    saved = theirs - mine
    assert found >= 1 and learn < found * saved * (1 + 1e-9)
    assert (found - 1) * saved <= learn * (1 + 1e-9)


def laid(cells: list[Cell], **line: Any) -> Board:
    digest = made.digest("metaprompt", "mpt", 0)
    lines = [MetaLine(variant="mpt", digest=digest, **{"seconds": 100.0, "flops": 1e12, **line})]
    lines += [MetaLine(variant="mpt-neither", digest="other", seconds=1e6, flops=1e20)]
    return lay_out(Results(cells, lines))


def cells_of(skills: dict[str, float], **changes: Any) -> list[Cell]:
    cells = made.grid(skills, targets=("e3c", "headqa", "phee", "open-i"), seeds=(0,))
    return [c.model_copy(update=changes if c.method == "mpt" else {}) for c in cells]


def test_only_the_metaprompt_that_was_used_is_paid_for() -> None:
    found = worth(laid(cells_of({"mpt": 0.7, "pt": 0.5}, train_seconds=30.0)), ["pt"])
    by_unit = {w.unit: w for w in found}
    assert set(by_unit) == {"seconds", "flops"}, "joules were not measured"
    assert by_unit["seconds"].learn == 100.0 and by_unit["seconds"].targets == 11, "10 s saved on each"
    assert by_unit["flops"].targets is None, "equal cost: it never pays"


def test_it_says_never_and_it_says_when_the_score_is_lower() -> None:
    (dear,) = [
        w for w in worth(laid(cells_of({"mpt": 0.7, "pt": 0.5}, train_seconds=90.0)), ["pt"]) if w.unit == "seconds"
    ]
    assert payback(dear).startswith("never: a target costs no less than with pt (+")
    (low,) = [
        w for w in worth(laid(cells_of({"mpt": 0.2, "pt": 0.8}, train_seconds=30.0)), ["pt"]) if w.unit == "seconds"
    ]
    assert payback(low).startswith("after 11 targets, at a lower score (−")


def test_energy_where_every_run_has_it() -> None:
    cells = [c.model_copy(update={"joules": 50.0}) for c in cells_of({"mpt": 0.7, "pt": 0.5})]
    assert {w.unit for w in worth(laid(cells, joules=10.0), ["pt"])} == {"seconds", "flops", "joules"}
    assert {
        w.unit for w in worth(laid([cells[0].model_copy(update={"joules": None}), *cells[1:]], joules=1.0), ["pt"])
    } == {
        "seconds",
        "flops",
    }


def test_untrained_methods_and_the_reference_are_not_compared() -> None:
    board = laid(cells_of({"mpt": 0.7, "zero-shot": 0.5}))
    assert worth(board, ["zero-shot", "mpt"]) == []


def test_examples_saved() -> None:
    def at(method: str, k: Any, score: float) -> Cell:
        cell = made.cell("headqa", method, 0.5, shots=k)
        return cell.model_copy(update={"metrics": {"accuracy": (score, score, score)}})

    cells = [at("mpt", 1, 30.0), at("mpt", 5, 40.0), at("mpt", 20, 60.0)]
    cells += [at("pt", 1, 10.0), at("pt", 5, 30.0), at("pt", 20, 35.0), at("pt", "full", 50.0)]
    found = examples_saved(lay_out(Results(cells)))
    assert [(s.shots, s.needs) for s in found] == [(1, 5), (5, "full"), (20, None)]
    assert found[0].score == pytest.approx(30.0)
