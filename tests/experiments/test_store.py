"""Results survive half-written lines and several writers; nothing is written twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clinprompt.errors import ResultsError
from clinprompt.experiments.store import ResultsFile, Store


def test_the_first_writer_of_a_cell_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.keep_cell({"id": "x", "writer": i}), range(8)))
    assert sum(won) == 1
    assert store.cell("x") == {"id": "x", "writer": won.index(True)}
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["x.json"]


def test_many_writers_of_one_results_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"

    def write(start: int) -> None:
        results = ResultsFile(path)
        for i in range(start, start + 30):
            results.append({"id": str(i % 40)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(0, 40, 10)))
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert sorted(ids) == sorted({str(i) for i in range(40)})


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert ResultsFile(path).append({"id": "a"})
    with path.open("a") as file:
        file.write('{"id": "b", "metr')
    results = ResultsFile(path)
    assert results.ids() == {"a"}
    assert results.append({"id": "b"}) and not results.append({"id": "a"})
    assert path.read_text() == '{"id": "a"}\n{"id": "b"}\n'


def test_lines_of_other_kinds_are_the_same_whatever_they_took(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "r.jsonl")
    line = {"kind": "metaprompt", "variant": "mpt", "seconds": 3.0, "joules": None, "machine": "one"}
    assert results.append(line)
    assert not results.append({**line, "seconds": 4.0, "machine": "two"})
    assert results.append({**line, "variant": "other"})


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("She has gout.\n")
    with pytest.raises(ResultsError, match="Choose another --out") as caught:
        ResultsFile(path).append({"id": "a"})
    assert "gout" not in str(caught.value)
    assert path.read_text() == "She has gout.\n"
