"""From records to encoded examples: balance, order, context, identity."""

from __future__ import annotations

import random

import numpy as np
import pytest

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks.codec import Example
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.surface import NONE
from clinprompt.training.batching import chunks, padded_share
from clinprompt.training.examples import (
    answer_limit,
    balanced,
    encode_examples,
    prepare,
    sample_records,
)
from clinprompt.training.learn import SourceTask
from tests.models import tiny
from tests.training.synthetic import ner_task, nli_task


def examples(answered: int, none: int) -> list[Example]:
    targets = ["x"] * answered + [NONE] * none
    return [Example(f"r{i}", f"source {i}", target, window=(i, i + 1)) for i, target in enumerate(targets)]


@pytest.mark.parametrize(("answered", "none", "kept"), [(4, 20, 4), (10, 3, 3), (0, 7, 1), (5, 0, 0)])
def test_unanswered_examples_are_thinned_to_as_many_as_answered(answered: int, none: int, kept: int) -> None:
    found = balanced("t", examples(answered, none), None)
    assert sum(e.target != NONE for e in found) == answered
    assert sum(e.target == NONE for e in found) == kept


def test_balance_and_samples_do_not_depend_on_the_order_of_the_corpus() -> None:
    given = examples(6, 30)
    shuffled = random.Random(1).sample(given, len(given))
    assert balanced("t", given, 8) == balanced("t", shuffled, 8)
    assert balanced("t", given, 8) == balanced("t", given, None)[:8]
    assert balanced("t", given, 8) != balanced("another", given, 8)
    records = list(nli_task().train)
    mixed = random.Random(2).sample(records, len(records))
    assert sample_records("t", records, 5) == sample_records("t", mixed, 5)
    assert sample_records("t", records, 5) == sample_records("t", records, 9)[:5]
    assert sample_records("t", records, 5, seed=1) != sample_records("t", records, 5)


def prepared(task=nli_task(), length: int = 5, backbone=None, **kwargs):  # type: ignore[no-untyped-def]
    return prepare(
        backbone or tiny(), task.task, task.train, task.validation, prompt_length=length, position="start", **kwargs
    )


def test_prepare_encodes_all_records_with_their_answers() -> None:
    backbone, task = tiny(), ner_task()
    found = prepared(task, backbone=backbone, reserve=32)
    answers = sorted(backbone.tokenizer.decode(e.ids[e.context :]) for e in found.train)
    assert len(answers) == len(task.train) and found.skipped == 0
    assert all(answer.endswith("</s>") for answer in answers)
    for record in task.train:
        assert any(record.entities[0].text_in(record.text) in answer for answer in answers)


def test_answers_beyond_the_context_are_counted_not_cut() -> None:
    """Sources are windowed by the codecs; an answer cannot be, so its example is left out and said to be."""
    backbone = tiny(max_position_embeddings=700)
    definition = TaskDefinition(name="sum", type="summarization")
    short = [Record(f"r{i}", "Fever and cough.", summary="fever") for i in range(3)]
    long = Record("long", "Fever and cough.", summary="fever " * 200)
    found = prepared(SourceTask(definition, [*short, long], [long]), backbone=backbone, reserve=32)
    assert found.skipped == 1 and len(found.train) == 3 and not found.validation
    assert all(len(e.ids) + 5 <= 700 for e in found.train)
    with pytest.raises(TaskError, match="none of its 1 training examples fits"):
        prepared(SourceTask(definition, [long]), backbone=backbone, reserve=32)


def test_answer_limit_leaves_room_within_the_reserve() -> None:
    backbone = tiny()
    encoded = encode_examples(backbone, [Example("r", "s", "a" * 9), Example("r", "s", "b")], "start")
    assert answer_limit(encoded, 256) == 11 + 5 + 8  # space, nine letters, end of sequence
    assert answer_limit(encoded, 12) == 12 and answer_limit([], 50) == 50


def test_micro_batches_hold_every_example_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, size=120).tolist()
    parts = chunks(lengths, 512)
    assert sorted(i for part in parts for i in part) == list(range(120))
    assert all(len(part) * max(lengths[i] for i in part) <= 512 for part in parts)
    assert padded_share(lengths, parts) < 0.1 < padded_share(lengths, [range(i, i + 4) for i in range(0, 120, 4)])
    assert chunks([900], 512) == [[0]] and chunks([], 512) == [] and padded_share([], []) == 0
