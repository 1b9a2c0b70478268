"""How sure the model was of each part of an answer (our definitions).

Closed answers: the probability of the chosen label or option, as predictions carry it. Generated items: the geometric
mean of the probabilities of the item's tokens, `exp(mean log p)`, its separator or the end of the answer not included.
Free text: the same over all tokens of the answer. Which item an entity came from is found by parsing the answer item by
item: items are read in order, so what appears with the k-th was said by the k-th.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clinprompt.records import Entity, Record, Relation
from clinprompt.serving.engine import Piece
from clinprompt.tasks import surface
from clinprompt.tasks.codec import Codec, Example, Output, Prediction

EntityKey = tuple[str, tuple[tuple[int, int], ...]]
RelationKey = tuple[str, EntityKey, EntityKey]


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a list answer: where it ends in the answer, and how sure the model was of it."""

    end: int
    confidence: float


def items(pieces: Sequence[Piece]) -> tuple[str, list[Item]]:
    """The answer and its items, from its tokens."""
    answer = "".join(piece.text for piece in pieces)
    found, start = [], 0
    for part in surface.split_unescaped(answer):
        end = start + len(part)
        if part.strip():
            inside = start + len(part) - len(part.lstrip())
            found.append(Item(end, _mean(_within(pieces, inside, end))))
        start = end + 1
    return answer, found


def whole(pieces: Sequence[Piece]) -> float | None:
    """Confidence of an answer that is one text; None for an empty one."""
    spoken = [piece.logprob for piece in pieces if piece.text.strip()]
    return _mean(spoken) if spoken else None


def _within(pieces: Sequence[Piece], start: int, end: int) -> list[float]:
    """Log-probabilities of the tokens that write some character of [start, end)."""
    found, place = [], 0
    for piece in pieces:
        after = place + len(piece.text)
        if place < end and after > start and piece.text:
            found.append(piece.logprob)
        place = after
    return found


def _mean(logprobs: Sequence[float]) -> float:
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0


def of_entities(record: Record) -> list[EntityKey]:
    return [(entity.type, entity.spans) for entity in record.entities]


def of_relations(record: Record) -> list[RelationKey]:
    known: dict[str, Entity] = {entity.id: entity for entity in record.entities}

    def key(relation: Relation) -> RelationKey:
        head, tail = known[relation.head], known[relation.tail]
        return relation.type, (head.type, head.spans), (tail.type, tail.spans)

    return [key(relation) for relation in record.relations]


@dataclass(frozen=True, slots=True)
class Sureness:
    """Confidence by what was said: entities, relations, and ungrounded mentions in their order."""

    entities: dict[EntityKey, float]
    relations: dict[RelationKey, float]
    ungrounded: tuple[float, ...]


def of_list(codec: Codec, record: Record, example: Example, pieces: Sequence[Piece]) -> Sureness:
    """Confidence of everything one list answer says, by parsing it item by item."""
    answer, said = items(pieces)
    entities: dict[EntityKey, float] = {}
    relations: dict[RelationKey, float] = {}
    ungrounded: list[float] = []
    for item in said:
        parsed: Prediction = codec.parse(record, [example], [Output(answer[: item.end].strip())])
        for entity in of_entities(parsed.record):
            entities.setdefault(entity, item.confidence)
        for relation in of_relations(parsed.record):
            relations.setdefault(relation, item.confidence)
        ungrounded += [item.confidence] * (len(parsed.ungrounded) - len(ungrounded))
    return Sureness(entities, relations, tuple(ungrounded))
