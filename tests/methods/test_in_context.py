"""Solved examples before a question: all that fit, never more, and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.errors import TaskError
from clinprompt.evaluation.answerer import in_context, zero_shot
from clinprompt.methods.in_context import InContext
from clinprompt.tasks.codec import Example
from clinprompt.training.few_shot import draw_shots
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task

BACKBONE = tiny(max_position_embeddings=128)  # one token per byte


@given(sizes=st.lists(st.integers(1, 40), max_size=6), question=st.integers(1, 90))
@settings(max_examples=50)
def test_as_many_as_fit_the_first_ones_first(sizes: list[int], question: int) -> None:
    room = 128 - 16
    examples = [Example("r", "s" * size, "t") for size in sizes]
    context = InContext(BACKBONE, examples, 16)
    asked = context.before([Example("q", "Q" * question, "")])[0]
    count = context.fitted[0]
    blocks = [f"{e.source} {e.target}\n\n" for e in examples]
    assert asked.source == "".join(blocks[:count]) + "Q" * question
    assert len(asked.source) <= max(room, question)
    if count < len(blocks):
        assert len("".join(blocks[: count + 1])) + question > room
    assert context.summary()["given"] == len(sizes)


def test_questions_keep_everything_else() -> None:
    question = Example("q", "Q", "gold", choices=("a", "b"), window=(3, 9), arguments=("x", "y"))
    asked = InContext(BACKBONE, [Example("r", "s", "t")], 16).before([question])[0]
    assert replace(asked, source="Q") == question


def test_the_examples_are_those_of_a_draw() -> None:
    backbone, task = tiny(), nli_task()
    who = in_context(backbone, task.task, task.train, 4, draw=2, seed=1)
    assert who.in_context is not None
    drawn = {record.id for record in draw_shots(task.task, task.train, 4, draw=2, seed=1)}
    assert {example.record_id for example in who.in_context.examples} == drawn
    assert all(example.target for example in who.in_context.examples)


def test_answers_depend_on_the_examples_and_no_gold_is_shown() -> None:
    backbone, task = tiny(), nli_task()
    who = in_context(backbone, task.task, task.train, 3)
    plain = zero_shot(backbone, task.task).answers(task.validation)
    shown = who.answers(task.validation)
    assert [p.probabilities for p in shown] != [p.probabilities for p in plain]
    altered = [replace(record, label="no") for record in task.validation]
    assert [p.probabilities for p in who.answers(altered)] == [p.probabilities for p in shown]


def test_there_must_be_examples() -> None:
    task = ner_task()
    with pytest.raises(TaskError, match="no training records to show"):
        in_context(BACKBONE, task.task, [], 3)
