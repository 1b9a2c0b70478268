"""Shared by the tests of tasks: a tokenizer stand-in, a perfect model, and random records."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st

from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks.codec import Codec, Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.registry import blind

_TOKEN = re.compile(r"\w{1,4}|[^\w\s]|\s")


def length(text: str) -> int:
    """Four letters, a mark or a space: a token."""
    return sum(1 for _ in _TOKEN.finditer(text))


def echo(task: TaskDefinition, codec: Codec, record: Record) -> tuple[list[Example], Prediction]:
    """A model that always gives the gold answer, asked about a record whose gold it cannot see."""
    examples = codec.render(record)
    return examples, codec.parse(blind(task, record), examples, [answer(example) for example in examples])


def answer(example: Example) -> Output:
    return Output(example.target, tuple(0.0 if choice == example.target else -1e3 for choice in example.choices))


# Texts in which everything that has a meaning in an answer occurs, often twice.
words = st.sampled_from(
    (
        *("pain", "pain", "painful", "none", "None", ";", "|", ":", "\\", "...", "#2", "#1", "-", ",", ".", "Dr."),
        *("2.5", "Ödem", "腹痛", "ﬁ", "e\u0301", "\U0001f9e0", "a", "aa", "aaa"),
    )
)
gaps = st.sampled_from([" ", " ", " ", "  ", "\n", "\t", "", ". ", "\n\n", "; ", "\u00a0"])


@st.composite
def texts(draw: st.DrawFn, most: int = 30) -> str:
    parts = draw(st.lists(st.tuples(words, gaps), max_size=most))
    return "".join(word + gap for word, gap in parts)


@st.composite
def entities(draw: st.DrawFn, text: str, labels: Sequence[str], prefix: str = "T") -> tuple[Entity, ...]:
    """Entities anywhere: nested, crossing, repeated, discontinuous; no white space at the ends of their spans."""
    places = [i for i, character in enumerate(text) if not character.isspace()]
    if not places:
        return ()
    found = []
    for number in range(draw(st.integers(0, 6))):
        ends = sorted(draw(st.lists(st.sampled_from(places), min_size=2, max_size=2)))
        spans = [(ends[0], ends[1] + 1)]
        rest = [i for i in places if i >= spans[0][1]]
        if rest and draw(st.booleans()):
            ends = sorted(draw(st.lists(st.sampled_from(rest), min_size=2, max_size=2)))
            spans.append((ends[0], ends[1] + 1))
        found.append(Entity(f"{prefix}{number}", draw(st.sampled_from(list(labels))), tuple(spans)))
    return tuple(found)


@st.composite
def ner_records(draw: st.DrawFn, labels: Sequence[str]) -> Record:
    text = draw(texts())
    return Record("r", text, entities=draw(entities(text, labels)))


@st.composite
def relation_records(draw: st.DrawFn, kinds: Sequence[str], labels: Sequence[str]) -> Record:
    text = draw(texts())
    found = draw(entities(text, kinds))
    relations = {}
    if found:
        for _ in range(draw(st.integers(0, 4))):
            head, tail = draw(st.sampled_from(found)), draw(st.sampled_from(found))
            if head.id != tail.id:
                relations[head.id, tail.id] = Relation(draw(st.sampled_from(list(labels))), head.id, tail.id)
    return Record("r", text, entities=found, relations=tuple(relations.values()))
