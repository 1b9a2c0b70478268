"""The table of promptability: what it counts, and what it trains on."""

from __future__ import annotations

from typing import Any

from benchmarks.promptability import NCBI, Adaptation, Material, run, table, thinned

from clinprompt.records import Entity, Record
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.learn import SourceTask
from tests.models import tiny


def records(count: int, every: int) -> list[Record]:
    entity = (Entity("T0", "Entity", ((0, 4),)),)
    return [Record(str(i), f"gout number {i}", entity if i % every == 0 else ()) for i in range(count)]


def test_three_quarters_have_an_entity() -> None:
    chosen = thinned("t", records(200, 2), 40)
    assert len(chosen) == 40 and sum(bool(r.entities) for r in chosen) == 30
    few = thinned("t", records(200, 20), 40)  # ten with one in all
    assert len(few) == 40 and sum(bool(r.entities) for r in few) == 10


def line(task: str, method: str, score: float) -> dict[str, Any]:
    facts = {"task": task, "method": method, "adaptation": method, "score": score, "low": 0.0, "high": 1.0}
    return {**facts, "steps": 1, "rate": 0.1, "validation_losses": {"0.1": 1.0}}


def test_the_ratio_takes_the_better_prompt_of_each_development_task_only() -> None:
    lines = [line(NCBI, "pt", 10), line(NCBI, "lora", 10)]
    assert table(lines).endswith("not measured.")
    lines += [
        line("a", "pt", 10),
        line("a", "pt", 20),
        line("a", "lora", 40),
        line("b", "pt", 30),
        line("b", "lora", 30),
    ]
    assert table(lines).endswith("0.75 over 2 development tasks.")


def test_the_rate_with_the_lower_validation_loss_is_kept() -> None:
    task = TaskDefinition(name="t", type="ner", labels={"Entity": ""})
    material = Material(SourceTask(task, records(12, 1), records(4, 1)), records(3, 1))
    found = run(tiny(), material, Adaptation("p", "pt", 6, (1e-6, 0.3), 5), 4, 0)
    losses = found["validation_losses"]
    assert found["rate"] == min((1e-6, 0.3), key=lambda rate: losses[str(rate)]) and losses["1e-06"] != losses["0.3"]
    assert found["numbers"] == 5 * 32 and found["test_records"] == 3
