"""Relations between given entities, between concepts, and end to end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks.codec import Output
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.pairs import candidates, coverage, each_candidate
from clinprompt.tasks.relation import RelationCodec, marked
from clinprompt.tasks.room import Room
from clinprompt.tasks.scoring import relation_keys
from clinprompt.tasks.triples import TripleCodec

from .support import echo, length, relation_records, texts

GIVEN = TaskDefinition(name="given", type="relation", labels={"treats": "", "causes": ""}, scope="document")
SENTENCE = GIVEN.model_copy(update={"scope": "sentence"})
FREE = GIVEN.model_copy(update={"entities": "predicted"})
KINDS = ["Drug", "Dis|ease: x"]


def entity(name: str, kind: str, start: int, end: int, *concepts: str) -> Entity:
    return Entity(name, kind, ((start, end),), tuple(concepts))


@settings(max_examples=150, deadline=None)
@given(record=relation_records(KINDS, list(GIVEN.labels)), budget=st.sampled_from([90, 120, 10_000]))
def test_given_entities_survive(record: Record, budget: int) -> None:
    examples, prediction = echo(GIVEN, RelationCodec(GIVEN, Room(length, budget)), record)
    assert relation_keys(GIVEN, prediction.record) == relation_keys(GIVEN, record)
    assert coverage(GIVEN, record).uncovered == 0
    assert len(examples) == len(record.entities) * max(0, len(record.entities) - 1)
    for example in examples:
        assert "<< " in example.source and "[[ " in example.source


@settings(max_examples=150, deadline=None)
@given(record=relation_records(KINDS, list(GIVEN.labels)), directed=st.booleans())
def test_sentence_scope_counts_what_it_cannot_ask(record: Record, directed: bool) -> None:
    task = SENTENCE.model_copy(update={"directed": directed})
    _, prediction = echo(task, RelationCodec(task, Room(length, 10_000)), record)
    found, wanted = relation_keys(task, prediction.record), relation_keys(task, record)
    assert found <= wanted
    if directed and len({e.spans for e in record.entities}) == len(record.entities):
        assert len(wanted - found) == coverage(task, record).uncovered


def test_candidates_are_made_one_by_one() -> None:
    """Four million pairs: the first are there without the rest."""
    many = Record("1", "x" * 10, tuple(entity(str(n), "Drug", 0, 1) for n in range(2_000)))
    pairs = each_candidate(GIVEN, many)
    assert [next(pairs) for _ in range(2)] == [("0", "1"), ("0", "2")]


@settings(max_examples=300, deadline=None)
@given(record=relation_records(KINDS, list(FREE.labels)))
def test_triples_survive(record: Record) -> None:
    codec = TripleCodec(FREE, Room(length, 10_000))
    _, prediction = echo(FREE, codec, record)
    assert codec.expressible(prediction.record) == codec.expressible(record)
    assert relation_keys(FREE, prediction.record) == relation_keys(FREE, record)
    assert not prediction.ungrounded and not prediction.malformed


@settings(max_examples=200, deadline=None)
@given(text=texts(), answer=st.one_of(st.text(max_size=80), texts()))
def test_any_triple_answer_is_read(text: str, answer: str) -> None:
    codec = TripleCodec(FREE, Room(length, 10_000))
    record = Record("r", text)
    for said in (answer, f"Drug: {answer} | treats | Drug: {answer}"):
        codec.parse(record, codec.render(record), [Output(said)])


def test_surface_of_a_pair() -> None:
    text = "Aspirin treats headache. Gout hurts."
    entities = (entity("a", "Drug", 0, 7), entity("b", "Disease", 15, 23), entity("c", "Disease", 25, 29))
    record = Record("r", text, entities, (Relation("treats", "a", "b"),))
    task = SENTENCE.model_copy(update={"arguments": (("Drug", "Disease"),)})
    (example,) = RelationCodec(task, Room(length, 1000)).render(record)
    assert example.source == (
        "Choose the relation of << >> and [[ ]]: treats, causes, none.\n"
        "Text: << Aspirin >> treats [[ headache ]].\nAnswer:"
    )
    assert (example.target, example.choices) == ("treats", ("treats", "causes", "none"))
    assert (example.arguments, example.window) == (("a", "b"), (0, 25))


def test_triple_surface_and_bad_answers() -> None:
    text = "Aspirin treats headache and gout."
    entities = (entity("a", "Drug", 0, 7), entity("b", "Disease", 15, 23))
    record = Record("r", text, entities, (Relation("treats", "a", "b"),))
    codec = TripleCodec(FREE, Room(length, 1000))
    (example,) = codec.render(record)
    assert example.target == "Drug: Aspirin | treats | Disease: headache"
    said = f"{example.target}; Drug: Aspirin | cures | Disease: gout; Drug: Morphine | treats | Disease: gout; nonsense"
    prediction = codec.parse(Record("r", text), [example], [Output(said)])
    assert len(prediction.record.relations) == 1 and len(prediction.record.entities) == 2
    assert prediction.ungrounded == (("treats", "Morphine"),) and len(prediction.malformed) == 2


def test_candidates_follow_the_corpus_then_the_arguments() -> None:
    text = "Aspirin and ibuprofen for gout."
    entities = (entity("a", "Drug", 0, 7), entity("b", "Drug", 12, 21), entity("c", "Disease", 26, 30))
    record = Record("r", text, entities)
    assert len(candidates(GIVEN, record)) == 6
    assert candidates(GIVEN.model_copy(update={"directed": False}), record) == [("a", "b"), ("a", "c"), ("b", "c")]
    pair = GIVEN.model_copy(update={"arguments": (("Drug", "Disease"),)})
    assert candidates(pair, record) == [("a", "c"), ("b", "c")]
    assert candidates(pair, Record("r", text, entities, meta={"pairs": (("b", "a"),)})) == [("b", "a")]
    assert RelationCodec(pair, Room(length, 1000)).render(Record("r", text)) == []


def concept_record() -> Record:
    text = (
        "Lithium was given. "
        + "Nothing happened. " * 30
        + "Lithium caused tremor. "
        + "All was well. " * 30
        + "Tremor."
    )
    places = [text.index("Lithium"), text.rindex("Lithium")]
    lithium = tuple(entity(f"L{i}", "Chemical", p, p + 7, "D008094") for i, p in enumerate(places))
    tremor = (text.index("tremor"), text.rindex("Tremor"))
    entities = (*lithium, *(entity(f"T{i}", "Disease", p, p + 6, "D014202", "-1") for i, p in enumerate(tremor)))
    return Record("r", text, entities, (Relation("causes", "D008094", "D014202"),))


def test_concepts_show_their_closest_mentions() -> None:
    record = concept_record()
    task = GIVEN.model_copy(update={"arguments": (("Chemical", "Disease"),)})
    examples, prediction = echo(task, RelationCodec(task, Room(length, 120)), record)
    assert [example.arguments for example in examples] == [("D008094", "D014202")]
    assert "<< Lithium >> caused [[ tremor ]]." in examples[0].source and length(examples[0].source) <= 120
    assert relation_keys(task, prediction.record) == {("causes", "D008094", "D014202")} and not prediction.omitted
    (whole,) = RelationCodec(task, Room(length, 10_000)).render(record)
    assert whole.source.count("<< Lithium >>") == 2 and whole.source.count("]]") == 3


def test_distant_arguments_are_shown_in_two_pieces_and_long_sentences_are_cut() -> None:
    text = "Lithium was given. " + "Nothing happened. " * 50 + "He had tremor."
    at = text.index("tremor")
    record = Record("r", text, (entity("a", "Drug", 0, 7), entity("b", "Disease", at, at + 6)))
    codec = RelationCodec(GIVEN.model_copy(update={"directed": False}), Room(length, 80))
    (example,) = codec.render(record)
    assert "<< Lithium >> was given. ... He had [[ tremor ]]." in example.source
    assert codec.parse(record, [example], [Output("none")]).omitted == 0
    flat = Record("r", text.replace(".", ","), record.entities)
    (example,) = codec.render(flat)
    assert "<< Lithium >>" in example.source and "[[ tremor ]]" in example.source and length(example.source) <= 80
    assert codec.parse(flat, [example], [Output("none")]).omitted > 500


def test_likelihood_decides_and_odd_answers_are_malformed() -> None:
    text = "Aspirin treats headache."
    record = Record("r", text, (entity("a", "Drug", 0, 7), entity("b", "Disease", 15, 23)))
    codec = RelationCodec(GIVEN.model_copy(update={"directed": False}), Room(length, 1000))
    examples = codec.render(record)

    def labels(output: Output) -> list[str]:
        return [relation.type for relation in codec.parse(record, examples, [output]).record.relations]

    assert labels(Output("treats", (-3.0, -1.0, -2.0))) == ["causes"]
    assert labels(Output("Causes")) == ["causes"]
    assert labels(Output("none")) == [] == labels(Output("perhaps"))
    assert codec.parse(record, examples, [Output("perhaps")]).malformed == ("perhaps",)


@pytest.mark.parametrize(
    ("heads", "tails", "shown"),
    [
        ([(0, 9)], [(5, 9)], "<< left [[ arm ]] >>"),
        ([(5, 9)], [(0, 9)], "[[ left << arm >> ]]"),
        ([(0, 5)], [(5, 9)], "<< left >> [[ arm ]]"),
    ],
)
def test_marks_nest(heads: Sequence[tuple[int, int]], tails: Sequence[tuple[int, int]], shown: str) -> None:
    text = "left arm "
    spans = [Entity("x", "A", tuple(part)) for part in (heads, tails)]
    assert marked(text, spans[:1], spans[1:], [(0, len(text))]).replace("  ", " ").strip() == shown
