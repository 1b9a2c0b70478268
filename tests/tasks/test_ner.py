"""Entities survive the way into text and back; whatever else a model says is counted, never raised."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clinprompt.errors import TaskError
from clinprompt.records import Entity, Record
from clinprompt.tasks.codec import Output
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.ner import NerCodec
from clinprompt.tasks.registry import codec_for
from clinprompt.tasks.room import Room
from clinprompt.tasks.scoring import entity_keys

from .support import echo, length, ner_records, texts

MANY = TaskDefinition(name="many", type="ner", labels={"Disease": "", "Chemical": "", "A b": ""})
ONE = TaskDefinition(name="one", type="ner", labels={"Disease": ""})


def codec(task: TaskDefinition, budget: int = 10_000) -> NerCodec:
    return NerCodec(task, Room(length, budget))


def targets(task: TaskDefinition, text: str, *entities: tuple[str, tuple[tuple[int, int], ...]]) -> list[str]:
    record = Record("r", text, tuple(Entity(f"T{i}", kind, spans) for i, (kind, spans) in enumerate(entities)))
    return [example.target for example in codec(task).render(record)]


def read(task: TaskDefinition, text: str, answer: str) -> tuple[set[tuple[str, str]], tuple[tuple[str, str], ...], int]:
    """((type, surface) set, ungrounded, number of malformed items)."""
    record = Record("r", text)
    prediction = codec(task).parse(record, codec(task).render(record), [Output(answer)])
    found = {(entity.type, entity.text_in(text)) for entity in prediction.record.entities}
    return found, prediction.ungrounded, len(prediction.malformed)


@pytest.mark.parametrize("task", [MANY, ONE], ids=["many", "one"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_gold_survives(task: TaskDefinition, data: st.DataObject) -> None:
    record = data.draw(ner_records(list(task.labels)))
    _, prediction = echo(task, codec(task), record)
    assert entity_keys(prediction.record, list(task.labels)) == entity_keys(record, list(task.labels))
    assert not prediction.ungrounded and not prediction.malformed and not prediction.omitted


@settings(max_examples=200, deadline=None)
@given(record=ner_records(list(MANY.labels)), spare=st.integers(16, 60))
@example(record=Record("r", "pain pain ; ... #2 腹痛 pain. ", (Entity("T0", "Disease", ((0, 23),)),)), spare=16)
def test_gold_survives_windows(record: Record, spare: int) -> None:
    budget = length("Find: Disease, Chemical, A b.\nText: \nAnswer:") + spare
    examples, prediction = echo(MANY, codec(MANY, budget), record)
    edges = [edge for example in examples for edge in example.window]
    assert edges[0] == 0 and edges[-1] == len(record.text) and edges[1:-1:2] == edges[2::2], "windows tile the text"
    cut = {
        (entity.type, entity.spans)
        for entity in record.entities
        if not any(start <= entity.start and entity.end <= end for start, end in (e.window for e in examples))
    }
    assert entity_keys(prediction.record, list(MANY.labels)) == entity_keys(record, list(MANY.labels)) - cut
    for _, spans in cut:  # cut only because it does not fit, in whole words: windows do not break one
        start, end = spans[0][0], spans[-1][1]
        start = max(record.text.rfind(" ", 0, start + 1), record.text.rfind("\n", 0, start + 1)) + 1
        rest = re.search(r"\s", record.text[end:])
        end = end + rest.start() if rest and not record.text[end - 1].isspace() else end
        inner = codec(MANY, budget)._source(record.text[start:end])
        assert length(inner) > budget or len(record.entities) > 1


@settings(max_examples=300, deadline=None)
@given(text=texts(), answer=st.one_of(st.text(max_size=80), texts()), task=st.sampled_from([MANY, ONE]))
def test_any_answer_is_read(text: str, answer: str, task: TaskDefinition) -> None:
    read(task, text, answer)


def test_surface() -> None:
    text = "Breast cancer on tamoxifen."
    chemical, disease = ("Chemical", ((17, 26),)), ("Disease", ((0, 13),))
    assert targets(MANY, text, chemical, disease) == ["Disease: Breast cancer; Chemical: tamoxifen"]
    assert targets(ONE, text, chemical, disease) == ["Breast cancer"]
    assert targets(MANY, text) == ["none"]
    source = codec(MANY).render(Record("r", text))[0].source
    assert source == "Find: Disease, Chemical, A b.\nText: Breast cancer on tamoxifen.\nAnswer:"
    own = codec(MANY.model_copy(update={"instruction": "List findings."})).render(Record("r", text))[0].source
    assert own == "List findings.\nText: Breast cancer on tamoxifen.\nAnswer:"


def test_occurrence_numbers_only_where_the_order_misleads() -> None:
    text = "pain, no pain, painful"
    assert targets(ONE, text, ("Disease", ((0, 4),)), ("Disease", ((9, 13),))) == ["pain; pain"]
    assert targets(ONE, text, ("Disease", ((9, 13),))) == ["pain #2"]
    assert targets(ONE, text, ("Disease", ((15, 19),))) == ["pain #3"]
    assert targets(ONE, text, ("Disease", ((6, 13),)), ("Disease", ((9, 13),))) == ["no pain; pain"]


def test_discontinuous_and_white_space() -> None:
    text = "left and right\n arm pain"
    assert targets(ONE, text, ("Disease", ((0, 4), (16, 24)))) == ["left ... arm pain"]
    assert targets(ONE, text, ("Disease", ((9, 24),))) == ["right arm pain"]
    assert read(ONE, text, "right arm  pain")[0] == {("Disease", "right\n arm pain")}


def test_literal_none_and_separators() -> None:
    assert targets(ONE, "Allergies: None", ("Disease", ((11, 15),))) == ["\\None"]
    assert targets(ONE, "a;b c|d", ("Disease", ((0, 7),))) == ["a\\;b c|d"]
    assert targets(ONE, "bed #2", ("Disease", ((0, 6),))) == ["bed \\#2"]


def test_answers_that_cannot_be_used() -> None:
    text = "Aspirin for headache."
    assert read(MANY, text, "Chemical: Aspirin; Disease: gout; Nonsense; Animal: cat; Disease:") == (
        {("Chemical", "Aspirin")},
        (("Disease", "gout"),),
        3,
    )
    assert read(MANY, text, "chemical: aspirin")[0] == {("Chemical", "Aspirin")}, "another case is found"
    assert read(ONE, text, "Aspirin; Aspirin") == ({("Disease", "Aspirin")}, (("Disease", "Aspirin"),), 0)
    assert read(ONE, text, "") == read(ONE, text, "none") == read(ONE, text, "None ; ") == (set(), (), 0)
    assert read(ONE, text, "Aspirin #7")[1] == (("Disease", "Aspirin"),)
    found, ungrounded, _ = read(ONE, text, "x" * 100_000 + "; " + "Aspirin\\")
    assert not found and len(ungrounded) == 2
    assert len(read(ONE, text, "headache; " * 5000)[1]) == 4999


def test_an_earlier_place_is_found_when_the_order_is_wrong() -> None:
    assert read(ONE, "Aspirin for headache.", "headache; Aspirin")[0] == {
        ("Disease", "headache"),
        ("Disease", "Aspirin"),
    }


def test_budget_below_the_instruction_is_refused() -> None:
    with pytest.raises(TaskError, match="Allow longer sources"):
        codec_for(MANY, length, 20)


def test_windows_end_with_sentences() -> None:
    text = "The patient was well. " * 40
    windows = [example.window for example in codec(ONE, 80).render(Record("r", text))]
    assert len(windows) > 5 and all(text[start:end].endswith(". ") for start, end in windows)
    assert all(length(example.source) <= 80 for example in codec(ONE, 80).render(Record("r", text)))


def test_entities_of_other_types_and_duplicates_are_not_stated() -> None:
    text = "cancer"
    assert targets(ONE, text, ("Disease", ((0, 6),)), ("Disease", ((0, 6),)), ("Gene", ((0, 6),))) == ["cancer"]
