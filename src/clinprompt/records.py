"""The data types: a document and its gold (or predicted) structure.

Offsets are Python string indices into `Record.text`, half-open, and always refer to the original text: no reader,
codec or window may change the text it was given. Nothing here knows about files, tasks or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Entity:
    """A typed mention. Several spans make it discontinuous; spans are sorted and do not overlap each other."""

    id: str
    type: str
    spans: tuple[Span, ...]
    concepts: tuple[str, ...] = ()  # database identifiers (MeSH, NCBI Gene, …) the mention is normalised to

    def __post_init__(self) -> None:
        if not self.spans:
            raise ValueError(f"entity {self.id!r} has no span")
        if any(start >= end or start < 0 for start, end in self.spans):
            raise ValueError(f"entity {self.id!r} has an empty or negative span: {self.spans}")
        if any(left[1] > right[0] for left, right in zip(self.spans, self.spans[1:], strict=False)):
            raise ValueError(f"entity {self.id!r} has unsorted or overlapping spans: {self.spans}")

    @property
    def start(self) -> int:
        return self.spans[0][0]

    @property
    def end(self) -> int:
        return self.spans[-1][1]

    def text_in(self, text: str) -> str:
        """Surface form; the fragments of a discontinuous mention are joined by one space."""
        return " ".join(text[start:end] for start, end in self.spans)


@dataclass(frozen=True, slots=True)
class Relation:
    """A typed, directed pair. `head` and `tail` name an entity id or, in document-level corpora, a concept id."""

    type: str
    head: str
    tail: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One document or example; a task type uses the fields it needs.

    ner, relation: `text`, `entities`, `relations`. nli: `text` is the premise, with `hypothesis` and `label`.
    qa: `text` is the context (may be empty), with `question`, `options` ((key, text) pairs, may be empty) and
    `answer` (an option's key, or free text). summarization: `text` is the source, with `summary`.
    `label` is also a document's class. `group` is the unit that splits must not separate (patient, trial, report).
    """

    id: str
    text: str
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()
    label: str | None = None
    question: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    answer: str | None = None
    hypothesis: str | None = None
    summary: str | None = None
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entity in self.entities:
            if entity.end > len(self.text):
                raise ValueError(
                    f"record {self.id!r}: entity {entity.id!r} ends at {entity.end}, the text at {len(self.text)}"
                )

    def entity(self, entity_id: str) -> Entity:
        """The entity with this id; KeyError if there is none."""
        for entity in self.entities:
            if entity.id == entity_id:
                return entity
        raise KeyError(entity_id)

    def mentions(self, reference: str) -> tuple[Entity, ...]:
        """The entities a relation argument stands for: the one with this id, else all normalised to this concept."""
        own = tuple(e for e in self.entities if e.id == reference)
        return own or tuple(e for e in self.entities if reference in e.concepts)

    def without_gold(self, *, keep_entities: bool = False) -> Record:
        """The record as a user's unlabelled input: text, question, options and hypothesis only."""
        return replace(
            self,
            entities=self.entities if keep_entities else (),
            relations=(),
            label=None,
            answer=None,
            summary=None,
        )
