"""Sentences and windows tile the text; borders stand where a reader would put them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.tasks.windows import sentences, shorten, tile, whitespace_borders, windows

from .support import texts


def split(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in sentences(text)]


@pytest.mark.parametrize(
    "parts",
    [
        ["Dr. Smith saw Mr. J. Doe at 3.5 h.", "He was well."],
        ["Given 2.5 mg p.o. b.i.d. with food, e.g. bread.", "No pain!", "Really?", "Yes."],
        ["Resp. rate 20, approx. 5 mL vs. 6 mL.", "(See Fig. 2.)", "Next."],
        ["The p-value (p < .05) was low.", "1. Aspirin", "2. Ibuprofen"],
    ],
)
def test_abbreviations_and_decimals_end_no_sentence(parts: list[str]) -> None:
    assert split("\n".join(parts)) == parts


def test_one_line() -> None:
    assert split('No pain. No fever. He said "Stop." Then he left.') == [
        "No pain.",
        "No fever.",
        'He said "Stop."',
        "Then he left.",
    ]


def test_notes() -> None:
    note = (
        "CHIEF COMPLAINT: Cough\n\nHISTORY OF PRESENT ILLNESS: The patient is a 60-year-old man who presented with a\n"
        "cough of three days and was found to have pneumonia. He was treated.\n"
        "Medications:\n- aspirin 81 mg\n- insulin\n"
    )
    assert split(note) == [
        "CHIEF COMPLAINT: Cough",
        "HISTORY OF PRESENT ILLNESS: The patient is a 60-year-old man who presented with a\n"
        "cough of three days and was found to have pneumonia.",
        "He was treated.",
        "Medications:",
        "- aspirin 81 mg",
        "- insulin",
    ]


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(texts(), st.text(max_size=200)), most=st.integers(1, 40))
def test_windows_tile_and_fit(text: str, most: int) -> None:
    for spans in (sentences(text), windows(text, lambda start, end: end - start <= most)):
        assert "".join(text[start:end] for start, end in spans) == text
        assert all(start < end for start, end in spans) or text == ""
    for start, end in windows(text, lambda start, end: end - start <= most):
        assert end - start <= most
        if start > 0:  # a border inside a word only where the word is too long
            run = max((len(word) for word in text[max(0, start - most) : start + most].split()), default=0)
            assert text[start - 1].isspace() or run >= most or start in whitespace_borders(text)


@settings(max_examples=200, deadline=None)
@given(text=texts(), most=st.integers(5, 40), data=st.data())
def test_protected_spans_are_cut_only_if_they_must(text: str, most: int, data: st.DataObject) -> None:
    ends = data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2).map(sorted))
    spans = [(ends[0], ends[1])] if ends[0] < ends[1] else []
    borders = [start for start, _ in windows(text, lambda start, end: end - start <= most, whole=spans)][1:]
    for start, end in spans:
        unit_start = max([0, *(b for b in whitespace_borders(text) if b <= start)])
        unit_end = min([len(text), *(b for b in whitespace_borders(text) if b >= end)])
        if unit_end - unit_start <= most:
            assert not any(start < border < end for border in borders)


def test_packing_is_greedy() -> None:
    assert tile(10, [[2, 4, 6, 8]], lambda start, end: end - start <= 5) == [(0, 4), (4, 8), (8, 10)]
    assert tile(4, [[]], lambda start, end: False) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_packing_measures_little() -> None:
    calls = 0

    def fits(start: int, end: int) -> bool:
        nonlocal calls
        calls += 1
        return end - start <= 1000

    text = "One two three four. " * 5000
    assert len(windows(text, fits)) == 100
    assert calls < 100 * 16


def test_shorten() -> None:
    assert shorten("a bb ccc", lambda part: len(part) <= 5, keep="start") == "a bb"
    assert shorten("a bb ccc", lambda part: len(part) <= 6, keep="end") == "bb ccc"
    assert shorten("a bb", lambda part: False, keep="end") == ""
