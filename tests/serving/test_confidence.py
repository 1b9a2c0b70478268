"""Confidence of items: the mean over their own tokens, found by parsing item by item."""

from __future__ import annotations

import math

import pytest

from clinprompt.records import Record
from clinprompt.serving import confidence
from clinprompt.serving.engine import Piece
from clinprompt.tasks.codec import Example
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.registry import codec_for

PIECES = [Piece(text, math.log(p)) for text, p in (
    (" Drug", 0.5), (": asp", 0.5), ("irin", 0.5), (";", 0.01), (" Drug", 0.9), (": ibu", 0.9), ("profen", 0.9),
    ("; Drug: asp", 0.2), ("irin", 0.2),
)] + [Piece("", math.log(0.3), "stop")]  # fmt: skip


def test_items_get_the_mean_of_their_tokens() -> None:
    answer, items = confidence.items(PIECES)
    assert answer == " Drug: aspirin; Drug: ibuprofen; Drug: aspirin"
    assert [item.confidence for item in items] == pytest.approx([0.5, 0.9, 0.2])
    assert confidence.whole(PIECES) == pytest.approx(math.exp(sum(p.logprob for p in PIECES[:-1]) / 9))
    assert confidence.whole([Piece("", -1.0, "stop")]) is None


def test_items_are_matched_with_what_they_said() -> None:
    task = TaskDefinition(name="t", type="ner", labels={"Drug": "", "Problem": ""})
    codec = codec_for(task, len, 500)
    record = Record("1", "She took aspirin and then aspirin again.")
    [example] = codec.render(record)
    sure = confidence.of_list(codec, record, example, PIECES)
    first, second = ((9, 16),), ((26, 33),)
    assert sure.entities[("Drug", first)] == pytest.approx(0.5)
    assert sure.entities[("Drug", second)] == pytest.approx(0.2)
    assert sure.ungrounded == pytest.approx((0.9,))


def test_relations_get_the_confidence_of_their_triple() -> None:
    task = TaskDefinition(name="t", type="relation", labels={"treats": ""}, entities="predicted")
    codec = codec_for(task, len, 500)
    record = Record("1", "Aspirin treats pain, rest treats gout.")
    said = [("Drug: Aspirin | treats | Problem: pain", 0.4), ("; X: rest | treats | Problem: gout", 0.8)]
    pieces = [Piece(text, math.log(p)) for text, p in said]
    sure = confidence.of_list(codec, record, Example("1", "", "", window=(0, len(record.text))), pieces)
    assert sorted(sure.relations.values()) == pytest.approx([0.4, 0.8])
    assert sure.entities[("Drug", ((0, 7),))] == pytest.approx(0.4)
