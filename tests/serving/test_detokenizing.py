"""Streamed text joins to the decoded answer; stop texts and trimming work across pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clinprompt.serving.detokenizing import Detokenizer, Stopper, Trimmer
from tests.models import byte_tokenizer


@given(st.text(max_size=30))
def test_pieces_of_text_join_to_it(text: str) -> None:
    tokenizer = byte_tokenizer()
    words = Detokenizer(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [words.push(token) for token in ids]
    assert "".join(pieces) + words.rest() == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


@given(st.lists(st.text("ab\n", max_size=4), max_size=8), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_stop_texts_are_found_across_pieces(pieces: list[str], stops: list[str]) -> None:
    stopper, whole = Stopper(stops), "".join(pieces)
    told = "".join(stopper.push(piece) for piece in pieces) + stopper.rest()
    first = min((whole.find(stop) for stop in stops if stop in whole), default=None)
    assert stopper.stopped == (first is not None)
    # Which of two stop texts ends first decides, as the text comes; both lie behind what was told.
    assert whole.startswith(told) and not any(stop in told for stop in stops)
    if first is None:
        assert told == whole


@given(st.lists(st.text("ab \n", max_size=4), max_size=8))
def test_trimmed_pieces_join_to_the_trimmed_text(pieces: list[str]) -> None:
    trimmer = Trimmer()
    assert "".join(trimmer.push(piece) for piece in pieces) == "".join(pieces).strip()
