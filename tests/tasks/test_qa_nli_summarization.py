"""Closed choices, free answers and summaries; long texts in windows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks.choices import choose
from clinprompt.tasks.codec import Output
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.registry import blind, codec_for

from .support import echo, length, texts

NLI = TaskDefinition(name="nli", type="nli", labels={"entailment": "", "neutral": ""})
OPTIONS = TaskDefinition(name="options", type="qa")
YES_NO = TaskDefinition(name="yes-no", type="qa", labels={"yes": "", "no": "", "maybe": ""})
FREE = TaskDefinition(name="free", type="qa", answers="free")
SUMMARY = TaskDefinition(name="summary", type="summarization")
LONG = "The patient had a cough. " * 30 + "Morphine was given. " + "He went home. " * 30


def test_nli_surface_and_windows() -> None:
    record = Record("r", "He coughs.", hypothesis="He is ill.", label="neutral")
    (example,) = codec_for(NLI, length, 100).render(record)
    assert example.source == ("Choose: entailment, neutral.\nPremise: He coughs.\nHypothesis: He is ill.\nAnswer:")
    assert (example.target, example.choices) == ("neutral", ("entailment", "neutral"))
    examples, prediction = echo(NLI, codec_for(NLI, length, 100), Record("r", LONG, hypothesis="Ill.", label="neutral"))
    assert len(examples) > 3 and all(length(example.source) <= 100 for example in examples)
    assert "".join(LONG[slice(*example.window)] for example in examples) == LONG
    assert prediction.record.label == "neutral" and math.isclose(prediction.probabilities["neutral"], 1.0)


def test_a_hypothesis_that_is_too_long_is_cut_and_counted() -> None:
    record = Record("r", LONG, hypothesis=LONG, label="neutral")
    codec = codec_for(NLI, length, 100)
    examples = codec.render(record)
    assert all(length(example.source) <= 100 for example in examples)
    prediction = codec.parse(blind(NLI, record), examples, [Output("neutral")] * len(examples))
    assert 0 < prediction.omitted < len(LONG) and prediction.record.label == "neutral"


def test_likelihoods_are_averaged_over_windows() -> None:
    choice = choose(["a", "b"], [Output("", (-1.0, -2.0)), Output("", (-4.0, -1.0))])
    assert choice.index == 1
    assert math.isclose(choice.probabilities[0], 1 / (1 + math.exp(1.0)))
    assert choose(["a", "b"], [Output("B"), Output("b "), Output("a"), Output("c")]).probabilities == (1 / 3, 2 / 3)
    assert choose(["a", "b"], [Output("x", (math.nan, 0.0))]).malformed == ("x",)
    assert choose(["a", "b"], [Output("", (-math.inf, -5.0))]).index == 1
    assert choose(["a", "b"], []).index is None


def question(**changes: object) -> Record:
    fields: dict[str, object] = {
        "question": "Which drug?",
        "options": (("1", "morphine; oral"), ("2", "none of these"), ("3", "aspirin")),
        "answer": "3",
    }
    return Record("r", "", **(fields | changes))  # type: ignore[arg-type]


def test_options() -> None:
    (example,) = codec_for(OPTIONS, length, 100).render(question())
    assert example.source == (
        "Choose the answer.\nQuestion: Which drug?\nOptions: morphine; oral; none of these; aspirin\nAnswer:"
    )
    assert (example.target, example.choices) == ("aspirin", ("morphine; oral", "none of these", "aspirin"))
    (keyed,) = codec_for(OPTIONS, length, 100, option_form="key").render(question())
    assert "Options: A. morphine; oral; B. none of these; C. aspirin" in keyed.source
    assert (keyed.target, keyed.choices) == ("C", ("A", "B", "C"))
    twice = question(options=(("a", "yes"), ("b", "Yes"), ("c", "no")), answer="b")
    for form in ("text", "key"):
        _, prediction = echo(OPTIONS, codec_for(OPTIONS, length, 100, option_form=form), twice)  # type: ignore[arg-type]
        assert prediction.record.answer == "b" and set(prediction.probabilities) == {"a", "b", "c"}


def test_options_and_questions_beyond_the_budget_are_cut_and_counted() -> None:
    codec = codec_for(OPTIONS, length, 90)
    record = question(question=LONG + "Which drug was given?")
    examples = codec.render(record)
    assert length(examples[0].source) <= 90 and "Which drug was given?" in examples[0].source
    assert codec.parse(record, examples, [Output("aspirin")]).omitted > 300
    many = question(options=tuple((str(i), f"option number {i}") for i in range(40)), answer="7")
    (example,) = codec.render(many)
    assert length(example.source) <= 90 and len(example.choices) == 40 and example.target == "option number 7"
    assert codec.parse(many, [example], [Output("option number 9")]).record.answer == "9"


def test_bad_questions_are_explained() -> None:
    codec = codec_for(OPTIONS, length, 100)
    with pytest.raises(TaskError, match="record r has no options"):
        codec.render(question(options=()))
    with pytest.raises(TaskError, match="none of its choices"):
        codec.render(question(answer="9"))
    with pytest.raises(TaskError, match="option_form"):
        codec_for(OPTIONS, length, 100, option_form="letter")  # type: ignore[arg-type]


def test_labels_are_taken_from_answer_or_label() -> None:
    record = Record("r", "He has gout.", question="Is he ill?", answer="yes")
    (example,) = codec_for(YES_NO, length, 100).render(record)
    assert example.source == "Choose: yes, no, maybe.\nText: He has gout.\nQuestion: Is he ill?\nAnswer:"
    for gold in (record, Record("r", LONG, question="Is he ill?", label="yes")):
        _, prediction = echo(YES_NO, codec_for(YES_NO, length, 100), gold)
        assert prediction.record.answer == "yes" and prediction.record.label is None


def test_free_answers_come_from_the_window_that_has_them() -> None:
    record = Record("r", LONG, question="What was given?", answer="Morphine")
    examples, prediction = echo(FREE, codec_for(FREE, length, 100), record)
    given = [example.target for example in examples]
    assert set(given) == {"Morphine", "none"} and given.count("Morphine") == 1
    assert prediction.record.answer == "Morphine"
    for answer in ("none", "None", "two words"):
        _, prediction = echo(FREE, codec_for(FREE, length, 100), Record("r", LONG, question="What?", answer=answer))
        assert prediction.record.answer == answer


def test_summary_surface_and_section() -> None:
    record = Record("r", "Doctor: hi.\n", question="HPI", summary="Greeting.")
    (example,) = codec_for(SUMMARY, length, 100).render(record)
    assert example.source == "Summarize.\nSection: HPI\nText: Doctor: hi.\nAnswer:" and example.target == "Greeting."


def test_summary_sentences_go_to_the_window_they_resemble() -> None:
    summary = "The patient went home. Morphine was given. A cough was had."
    record = Record("r", LONG, summary=summary)
    examples, prediction = echo(SUMMARY, codec_for(SUMMARY, length, 150), record)
    (holder,) = [example for example in examples if "Morphine was given." in example.target]
    assert "Morphine" in LONG[slice(*holder.window)]
    assert "none" in {example.target for example in examples}
    assert sorted((prediction.record.summary or "").split()) == sorted(summary.split())


@settings(max_examples=150, deadline=None)
@given(text=texts(), summary=texts(), budget=st.sampled_from([60, 10_000]))
def test_summaries_lose_no_word(text: str, summary: str, budget: int) -> None:
    examples, prediction = echo(SUMMARY, codec_for(SUMMARY, length, budget), Record("r", text, summary=summary))
    if len(examples) == 1:
        assert prediction.record.summary == summary.strip()
    assert sorted((prediction.record.summary or "").split()) == sorted(summary.split())


@settings(max_examples=200, deadline=None)
@given(
    task=st.sampled_from([NLI, OPTIONS, YES_NO, FREE, SUMMARY]),
    text=texts(),
    answers=st.lists(st.one_of(st.text(max_size=40), texts()), min_size=1, max_size=4),
)
def test_any_answer_is_read(task: TaskDefinition, text: str, answers: list[str]) -> None:
    record = Record("r", text, question="Q?", hypothesis="H.", options=(("a", "x"), ("b", "y")))
    codec = codec_for(task, length, 70)
    examples = codec.render(record)
    codec.parse(record, examples, [Output(answers[i % len(answers)]) for i in range(len(examples))])
