"""The embedded sample: reproducible, exact, balanced, and not solved by remembering words."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.corpora.sample import SampleTask, sample_note, sample_suite
from clinprompt.records import Record
from clinprompt.tasks.definition import parse_task


@cache
def suite() -> list[SampleTask]:
    return sample_suite()


def records(task: SampleTask) -> list[Record]:
    return [record for split in task.splits.values() for record in split]


NAMES = [task.name for task in suite()]


def named(name: str) -> SampleTask:
    return next(task for task in suite() if task.name == name)


def test_twelve_sources_and_one_target_of_each_type() -> None:
    assert Counter(task.role for task in suite()) == {"source": 12, "target": 5}
    targets = sorted(task.definition["type"] for task in suite() if task.role == "target")
    assert targets == sorted({"ner", "relation", "qa", "nli", "summarization"})
    assert len(set(NAMES)) == 17


@pytest.mark.parametrize("name", NAMES)
def test_definitions_are_valid_and_say_synthetic(name: str) -> None:
    definition = parse_task(named(name).definition)
    assert definition.name == name
    assert "synthetic" in definition.description.lower()
    assert all(record.meta["synthetic"] for record in records(named(name)))


@pytest.mark.parametrize("name", NAMES)
def test_sizes_ids_and_no_text_twice(name: str) -> None:
    task = named(name)
    assert {split: len(made) for split, made in task.splits.items()} == {"train": 200, "validation": 40, "test": 80}
    assert len({record.text for record in records(task)}) == 320
    assert len({record.id for record in records(task)}) == 320


@pytest.mark.parametrize("name", NAMES)
def test_records_fit_their_task(name: str) -> None:
    task = named(name)
    definition = parse_task(task.definition)
    for record in records(task):
        check(record, definition.type, set(definition.labels), definition.answer_kind)


def check(record: Record, kind: str, labels: set[str], answers: str) -> None:
    parts = (record.text, record.question, record.hypothesis, *(option for _, option in record.options))
    shown = " ".join(part for part in parts if part)
    assert len(shown.split()) <= 75 and "{" not in shown and "  " not in shown and record.text == record.text.strip()
    for entity in record.entities:
        surface = entity.text_in(record.text)
        assert surface == surface.strip() and surface
        before, after = record.text[: entity.start][-1:], record.text[entity.end :][:1]
        assert not before.isalnum() and not after.isalnum()
    if kind == "ner":
        assert {entity.type for entity in record.entities} <= labels
    if kind == "relation":
        for relation in record.relations:
            assert relation.type in labels
            assert record.entity(relation.head).type != record.entity(relation.tail).type
    if kind == "nli":
        assert record.label in labels and record.hypothesis
    if kind == "qa" and answers == "labels":
        assert record.answer in labels and record.question
    if kind == "qa" and answers == "options":
        assert record.answer in dict(record.options) and len({text for _, text in record.options}) == len(
            record.options
        )
    if kind == "summarization":
        assert record.summary and len(record.summary.split()) < len(record.text.split())


@pytest.mark.parametrize(
    "name", [n for n in NAMES if named(n).definition["type"] in ("nli", "qa") and named(n).definition["labels"]]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_balanced(name: str, split: str) -> None:
    task = named(name)
    counts = Counter(record.label or record.answer for record in task.splits[split])
    assert set(counts) == set(task.definition["labels"])
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", [n for n in NAMES if named(n).definition["type"] == "relation"])
def test_every_relation_and_its_absence_are_common(name: str) -> None:
    task = named(name)
    counts: Counter[str] = Counter()
    (head, tail), *_ = task.definition["arguments"]
    for record in task.splits["test"]:
        linked = {(r.head, r.tail): r.type for r in record.relations}
        heads, tails = ([e.id for e in record.entities if e.type == t] for t in (head, tail))
        counts.update(linked.get((h, t), "none") for h in heads for t in tails)
    assert set(counts) == {*task.definition["labels"], "none"}
    assert min(counts.values()) >= 0.1 * sum(counts.values())


@pytest.mark.parametrize("name", [n for n in NAMES if named(n).definition["type"] == "ner"])
def test_entities_include_unseen_surfaces_and_empty_notes(name: str) -> None:
    task = named(name)
    seen = {e.text_in(r.text).lower() for r in task.splits["train"] for e in r.entities}
    held = [e for r in task.splits["test"] for e in r.entities if e.text_in(r.text).lower() not in seen]
    total = sum(len(r.entities) for r in task.splits["test"])
    assert 0.2 < len(held) / total < 0.8
    assert 0.05 < sum(not r.entities for r in task.splits["test"]) / 80 < 0.25


def test_words_held_out_for_test_are_in_no_training_record_of_any_task() -> None:
    from clinprompt.corpora.sample.drugs import DRUGS

    train = {e.text_in(r.text).lower() for task in suite() for r in task.splits["train"] for e in r.entities}
    assert not train & {drug.lower() for drug in DRUGS.parts["test"]}
    test = {e.text_in(r.text).lower() for task in suite() for r in task.splits["test"] for e in r.entities}
    assert test & set(DRUGS.parts["test"])


def test_the_right_option_is_spread_over_the_keys() -> None:
    keys = Counter(record.answer for record in named("sample-choices").splits["train"])
    assert min(keys[key] for key in "ABC") > 40


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_any_seed_gives_valid_and_repeatable_records(seed: int) -> None:
    made = sample_suite(seed=seed, train=8, validation=2, test=4)
    assert made == sample_suite(seed=seed, train=8, validation=2, test=4)
    for task in made:
        definition = parse_task(task.definition)
        for record in records(task):
            check(record, definition.type, set(definition.labels), definition.answer_kind)


def test_seeds_differ_and_the_test_split_ignores_the_other_sizes() -> None:
    small, large, other = (
        sample_suite(train=5, validation=2, test=5), sample_suite(train=9, validation=3, test=5),
        sample_suite(seed=1, train=5, validation=2, test=5),
    )  # fmt: skip
    for one, two, three in zip(small, large, other, strict=True):
        assert one.splits["test"] == two.splits["test"] != three.splits["test"]


def test_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "from hashlib import sha256; from clinprompt.corpora.sample import sample_suite;"
        "print(sha256(repr(sample_suite(train=3, validation=1, test=2)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def test_generation_is_quick() -> None:
    start = time.process_time()
    sample_suite(seed=7)
    assert time.process_time() - start < 3


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        sample_suite(train=-1)


@pytest.mark.parametrize("seed", range(5))
def test_the_note_is_readable_and_its_gold_exact(seed: int) -> None:
    note = sample_note(seed=seed)
    assert 90 < len(note.text.split()) < 150
    assert {entity.type for entity in note.entities} == {"Drug", "Symptom", "Disease", "Adverse event", "Procedure"}
    assert note == sample_note(seed=seed)
