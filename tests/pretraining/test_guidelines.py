"""Phrases, term lists and guidelines: spans that an annotator might mark, from rules alone."""

from __future__ import annotations

import pytest
from pretraining.corpus import Document
from pretraining.extraction import window_of
from pretraining.guidelines import ending, longest_of, runs, terms, topics


def found(finder: object, text: str) -> list[str]:
    assert callable(finder)
    return [text[start:end] for start, end in finder(window_of(text))]


def test_a_head_takes_the_content_words_straight_before_it() -> None:
    finder = runs(["disease", "syndrome"])
    text = "Patients with chronic kidney disease, or with the Ewing's sarcoma syndrome and disease."
    assert found(finder, text) == ["chronic kidney disease", "Ewing's sarcoma syndrome", "disease"]
    assert found(finder, "It is a rapidly progressive disease.") == ["progressive disease"]
    assert found(finder, "Many various severe liver diseases.") == []


def test_a_phrase_does_not_begin_with_a_weak_word_and_has_five_words_at_most() -> None:
    assert found(runs(["disease"]), "She had several other common lung disease.") == ["lung disease"]
    assert found(runs(["x"]), "alpha beta gamma delta epsilon zeta x") == ["gamma delta epsilon zeta x"]


def test_of_two_names_the_longer_one_is_found_whatever_its_case() -> None:
    finder = terms(["kidney cancer", "cancer", "X-linked hypophosphatemia"])
    text = "Kidney cancer is not x-linked Hypophosphatemia; cancers are not cancer."
    assert found(finder, text) == ["Kidney cancer", "x-linked Hypophosphatemia", "cancer"]


def test_where_finders_overlap_the_longer_span_stays() -> None:
    finder = longest_of([ending(["itis"]), terms(["chronic hepatitis B", "colitis"])])
    assert found(finder, "chronic hepatitis B, colitis and arthritis") == [
        "chronic hepatitis B",
        "colitis",
        "arthritis",
    ]


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("What is (are) Feingold syndrome ?", "feingold syndrome"),
        ("What are the symptoms of the Alport syndrome ?", "alport syndrome"),
        ("How many people are affected by Cole disease ?", "cole disease"),
        ("Is Fabry disease inherited ?", "fabry disease"),
        ("Where can I read more?", None),
    ],
)
def test_the_name_in_a_question(question: str, name: str | None) -> None:
    documents = [Document(source="medquad", text="", question=question)]
    assert topics(documents) == ([name] if name else [])
    assert topics([Document(source="pubmedqa", text="", question=question)]) == []
