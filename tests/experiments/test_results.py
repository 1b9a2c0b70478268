"""The results file: what is written is read back, and a damaged line is an error that says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clinprompt.errors import ResultsError
from clinprompt.experiments.results import MetaLine, Planned, append_line, line_text, parse_line, read_results
from tests.experiments import board

CELL = board.cell("e3c", "mpt", 0.6)
META = MetaLine(variant="mpt", seed=1, seconds=10.0, flops=1e12, sources=("bc5cdr",), digest="abc")
PLAN = Planned(cells=(("e3c", "mpt", "full", 0, 0), ("e3c", "pt", 5, 3, 0)))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for line in (CELL, META, board.test_set("e3c"), PLAN):
        append_line(path, line)
        assert parse_line(line_text(line)) == line
    found = read_results(path)
    assert found.cells == [CELL] and found.metaprompts == [META]
    assert found.test_sets[CELL.test_set].ids[1] == "e3c-1"
    assert found.planned == {("e3c", "mpt", "full", 0, 0), ("e3c", "pt", 5, 3, 0)}


def test_records_of_a_mean_are_numbers(tmp_path: Path) -> None:
    cell = board.cell("headqa", "pt", 0.6)
    again = parse_line(line_text(cell))
    assert again == cell and set(cell.per_example) <= {0.0, 1.0}


def test_the_same_cell_twice_is_one_cell_and_another_result_is_told(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    other = CELL.model_copy(update={"metrics": {"strict_f1": (1.0, 0.0, 2.0)}})
    slower = CELL.model_copy(update={"train_seconds": 99.0})
    for path, cell in ((first, CELL), (first, slower), (second, other)):
        append_line(path, cell)
    append_line(first, META)
    append_line(second, META)
    found = read_results([first, second])
    assert found.cells == [CELL] and found.contradictions == [CELL.id] and found.metaprompts == [META]


def changed(**changes: Any) -> str:
    raw = {**json.loads(line_text(CELL)), **changes}
    return json.dumps({key: value for key, value in raw.items() if value is not ...}, default=str)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a line is a JSON object"),
        ('{"kind": "cel"}', "unknown kind 'cel'; known: cell"),
        (changed(headline="f2"), "the headline f2 is not among the metrics strict_f1"),
        (changed(n=81), "n is 81 but per_example has 80"),
        (changed(n_all=4), "more than n_all"),
        (changed(per_example=[[1, 2]] * 80), "`per_example"),
        (changed(per_example=[1.5] * 80), "`per_example"),
        (changed(per_example=[[1, -1, 0]] * 80), "`per_example"),
        (changed(shots="many"), "`shots"),
        (changed(type="parsing"), "`type`"),
        (changed(colour="blue"), "`colour`"),
        (changed(method=...), "`method`: Field required"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(line_text(META) + "\n" + line + "\n" + line_text(CELL), encoding="utf-8")
    with pytest.raises(ResultsError) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path}:3: ") and said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_last_line_that_is_cut_off_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    text = line_text(META) + line_text(CELL)
    path.write_text(text[:-200], encoding="utf-8")
    with pytest.raises(ResultsError, match=r"results\.jsonl:2: .*The last line is cut off: delete it"):
        read_results(path)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such file"):
        read_results(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ResultsError, match="not UTF-8"):
        read_results(tmp_path / "b.jsonl")


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        line_text(CELL.model_copy(update={"flops": float("nan")}))
