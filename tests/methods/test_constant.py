"""The best answer that reads nothing: against counting by hand, for every kind of question."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinprompt.errors import TaskError
from clinprompt.methods.constant import Constant, best_constant, constant_answers
from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import headline, score
from clinprompt.tasks.registry import codec_for

NLI = TaskDefinition(name="infer", type="nli", labels={"yes": "", "no": "", "maybe": ""})
QA = TaskDefinition(name="ask", type="qa")
SUMMARY = TaskDefinition(name="short", type="summarization")
RELATIONS = TaskDefinition(name="pairs", type="relation", labels={"treats": "", "causes": ""})


def codec(task: TaskDefinition):  # type: ignore[no-untyped-def]  # any of the codecs
    return codec_for(task, len, 4000)


def value(task: TaskDefinition, constant: Constant, records: list[Record]) -> float:
    answers = constant_answers(task, codec(task), constant, records)
    return score(task, records, answers, resamples=0)[headline(task)].value


def inferences(labels: list[str]) -> list[Record]:
    return [Record(f"r{i}", f"He has {i}.", hypothesis=f"Case {i}?", label=label) for i, label in enumerate(labels)]


@given(st.lists(st.sampled_from(sorted(NLI.labels)), min_size=1, max_size=30))
def test_of_labels_it_is_the_commonest(labels: list[str]) -> None:
    records = inferences(labels)
    found = best_constant(NLI, codec(NLI), records)
    assert labels.count(found.text) == max(Counter(labels).values())
    assert value(NLI, found, records) == pytest.approx(100 * max(Counter(labels).values()) / len(labels))


def test_gold_is_hidden_and_every_question_gets_the_same_answer() -> None:
    found = best_constant(NLI, codec(NLI), inferences(["yes", "yes", "no"]))
    answers = constant_answers(NLI, codec(NLI), found, inferences(["no", "maybe", "no", "yes"]))
    assert [p.record.label for p in answers] == ["yes"] * 4


def questions(right: list[int]) -> list[Record]:
    letters = "ABCD"
    return [
        Record(
            f"q{i}",
            "",
            question=f"Question {i}?",
            options=tuple((letters[k], f"answer {i}-{k}") for k in range(4)),
            answer=letters[place],
        )
        for i, place in enumerate(right)
    ]


def test_of_options_it_is_a_place() -> None:
    found = best_constant(QA, codec(QA), questions([2, 0, 2, 1]))
    assert found.place == 2
    assert value(QA, found, questions([2, 2, 0, 1])) == 50.0
    fewer = replace(questions([0])[0], options=(("A", "one"), ("B", "two")))
    assert constant_answers(QA, codec(QA), found, [fewer])[0].record.answer == "B"  # no third option: the last
    assert best_constant(QA, codec(QA), questions([3])).place == 3


def test_of_summaries_it_is_what_comes_nearest_to_all() -> None:
    texts = ["No acute disease.", "No acute disease today.", "Fracture.", "Fracture."]
    records = [Record(f"s{i}", f"Text {i}.", summary=text) for i, text in enumerate(texts)]
    assert best_constant(SUMMARY, codec(SUMMARY), records).text == "Fracture."
    more = [*records, Record("s4", "Text.", summary="No acute disease now.")]
    assert best_constant(SUMMARY, codec(SUMMARY), more).text == "No acute disease."  # not the commonest: the best


def paired(kinds: list[str]) -> list[Record]:
    text = "Aspirin stopped fever."
    people = (Entity("e1", "Drug", ((0, 7),)), Entity("e2", "Problem", ((16, 21),)))
    return [
        Record(f"p{i}", text, entities=people, relations=(Relation(kind, "e1", "e2", id="R1"),) if kind else ())
        for i, kind in enumerate(kinds)
    ]


def test_no_relation_is_no_answer_to_be_proud_of() -> None:
    records = paired(["", "", "", "treats"])
    found = best_constant(RELATIONS, codec(RELATIONS), records)
    assert found.text == "treats"  # "none" is right three times of four and has an F1 of 0
    assert value(RELATIONS, found, records) > 0


def test_without_examples_there_is_no_answer() -> None:
    with pytest.raises(TaskError, match="task infer: no training example"):
        best_constant(NLI, codec(NLI), [])
