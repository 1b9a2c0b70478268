"""What a sweep will cost: how long answering takes is measured on a bounded number of questions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clinprompt.errors import TrainingError
from clinprompt.evaluation import predict
from clinprompt.experiments import answering_time as module
from clinprompt.experiments.estimate import estimate
from clinprompt.experiments.store import ResultsFile
from clinprompt.experiments.sweep import Sweep
from tests.experiments.workspace import bench, make


def test_long_documents_are_measured_on_few_of_their_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "data")
    pages = tmp_path / "data" / "find-target-test.jsonl"
    text = "He takes ibuprofen daily. " * 600  # windows of 64 tokens: some hundred questions
    pages.write_text(json.dumps({"id": "long", "text": text, "entities": []}) + "\n" + pages.read_text())
    clock, measured = [0.0], []

    def a_second_each(decoder: Any, chosen: Any, rows: Any, limit: int) -> None:
        measured.append(len(chosen))
        assert len(rows) == len(chosen) and limit >= 1
        clock[0] += len(chosen)

    monkeypatch.setattr(module, "answer", a_second_each)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    workbench = bench(tmp_path, methods=["zero-shot"], targets=["find-target"], limits={"test": None})
    planned = estimate(Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32), 1e9)
    asked = 0

    def count(decoder: Any, chosen: Any, rows: Any, limit: int, progress: Any = None) -> Any:
        nonlocal asked
        asked = len(chosen)
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "answer", count)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(
            workbench.backbone,
            workbench.target("find-target").task,
            workbench.test_records("find-target"),
            None,
            window=64,
        )
    assert len(measured) == 1 and module.MEASURED_QUESTIONS // 2 < measured[0] <= module.MEASURED_QUESTIONS < asked
    assert planned.methods[0].predict_seconds == pytest.approx(asked, rel=0.1)  # without a prompt windows are as long


def test_examples_in_the_context_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, read = [0.0], []

    def a_second_a_character(decoder: Any, chosen: Any, rows: Any, limit: int) -> None:
        read.append(sum(len(question.source) for question in chosen))
        clock[0] += read[-1]

    monkeypatch.setattr(module, "answer", a_second_a_character)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    workbench = bench(
        tmp_path, methods=["constant", "zero-shot", "in-context"], targets=["find-target"], shots=[0, 1, 2], draws=1
    )
    planned = estimate(Sweep(workbench, ResultsFile(tmp_path / "r.jsonl"), 32), 1e9)
    bare, one, two = read
    assert bare < one < two
    assert {m.method: m.predict_seconds for m in planned.methods} == {
        "constant": 0.0,
        "zero-shot": bare,
        "in-context": one + two,
    }


def test_a_suite_with_one_source_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    suite = make(tmp_path / "data")
    suite.write_text(
        suite.read_text().replace("sources: [find-source.yaml, infer-source.yaml]", "sources: [find-source.yaml]")
    )
    one = bench(tmp_path, methods=["mpt"], shots=["full"])
    with pytest.raises(TrainingError, match="at least two source tasks"):
        estimate(Sweep(one, ResultsFile(tmp_path / "r.jsonl"), 32), 1e9)
