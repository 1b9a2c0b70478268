"""Which pairs of entities a relation task asks about, and which of a record's gold relations they cover."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clinprompt.records import Entity, Record, Relation, Span
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.surface import NONE
from clinprompt.tasks.windows import outside, sentences

Pair = tuple[str, str]
_NO_CONCEPTS = frozenset({"", "-", "-1"})


@dataclass(frozen=True, slots=True)
class Coverage:
    """Gold relations of a record that a candidate pair can express, and those that none can."""

    covered: int
    uncovered: int


def is_concept_level(task: TaskDefinition, record: Record) -> bool:
    """Relations hold between concepts (all mentions of a database identifier), not between mentions: in tasks of
    document scope whose entities carry concepts, unless ``record.meta["level"]`` says "mention" or "concept"."""
    level = record.meta.get("level")
    if level is not None:
        return bool(level == "concept")
    return task.scope == "document" and any(entity.concepts for entity in record.entities)


def mention_index(record: Record) -> dict[str, tuple[Entity, ...]]:
    """What a relation argument stands for, for all arguments at once: `Record.mentions` as a table."""
    table: dict[str, list[Entity]] = defaultdict(list)
    for entity in record.entities:
        for concept in entity.concepts:
            if concept not in _NO_CONCEPTS:
                table[concept].append(entity)
    found = {reference: tuple(entities) for reference, entities in table.items()}
    own: dict[str, list[Entity]] = defaultdict(list)
    for entity in record.entities:
        own[entity.id].append(entity)
    return found | {reference: tuple(entities) for reference, entities in own.items()}


def sentence_spans(record: Record) -> list[Span]:
    """Sentences of the text, joined where an entity would be cut."""
    starts = [start for start, _ in sentences(record.text)][1:]
    borders = [0, *outside(starts, [(entity.start, entity.end) for entity in record.entities])]
    return list(zip(borders, [*borders[1:], len(record.text)], strict=True))


def sentence_number(spans: Sequence[Span], offset: int) -> int:
    return bisect_right(spans, (offset, float("inf"))) - 1


def candidates(task: TaskDefinition, record: Record) -> list[Pair]:
    """Pairs of entity ids (or concept ids) to classify, in text order of the head, then of the tail.

    ``record.meta["pairs"]`` where the corpus defines them; else all ordered pairs of different entities that
    `task.arguments` permits within `task.scope`. With `task.directed` false each pair comes once.
    """
    return list(each_candidate(task, record))


def each_candidate(task: TaskDefinition, record: Record) -> Iterator[Pair]:
    """`candidates` one by one: who only wants to know whether there are too many need not hold all of them."""
    known = mention_index(record)
    defined = record.meta.get("pairs")
    if defined is not None:
        yield from ((head, tail) for head, tail in defined if head in known and tail in known)
    elif is_concept_level(task, record):
        yield from _concept_pairs(task, record)
    else:
        yield from _mention_pairs(task, record)


def _mention_pairs(task: TaskDefinition, record: Record) -> Iterator[Pair]:
    entities = sorted(record.entities, key=lambda entity: (entity.start, entity.end))
    spans = sentence_spans(record)
    place = [sentence_number(spans, entity.start) if task.scope == "sentence" else 0 for entity in entities]
    for i, head in enumerate(entities):
        for j, tail in enumerate(entities):
            if i != j and place[i] == place[j] and _permitted(task, i < j, {head.type}, {tail.type}):
                yield head.id, tail.id


def _concept_pairs(task: TaskDefinition, record: Record) -> Iterator[Pair]:
    kinds: dict[str, set[str]] = defaultdict(set)
    for entity in sorted(record.entities, key=lambda entity: (entity.start, entity.end)):
        for concept in entity.concepts:
            if concept not in _NO_CONCEPTS:
                kinds[concept].add(entity.type)
    concepts = list(kinds)
    for i, head in enumerate(concepts):
        for j, tail in enumerate(concepts):
            if i != j and _permitted(task, i < j, kinds[head], kinds[tail]):
                yield head, tail


def _permitted(task: TaskDefinition, in_text_order: bool, head: set[str], tail: set[str]) -> bool:
    if not task.directed and not in_text_order:
        return False
    if not task.arguments:
        return True
    if any((a, b) in task.arguments for a in head for b in tail):
        return True
    return not task.directed and any((b, a) in task.arguments for a in head for b in tail)


def gold_labels(task: TaskDefinition, record: Record) -> dict[Pair, str]:
    """Pair → gold relation type, for the task's labels other than ``none``; of several types the first in label order.
    With `task.directed` false both directions are listed."""
    rank = {label: position for position, label in enumerate(task.labels) if label.lower() != NONE}
    found: dict[Pair, str] = {}
    for relation in sorted((r for r in record.relations if r.type in rank), key=lambda r: rank[r.type]):
        found.setdefault((relation.head, relation.tail), relation.type)
        if not task.directed:
            found.setdefault((relation.tail, relation.head), relation.type)
    return found


def coverage(task: TaskDefinition, record: Record) -> Coverage:
    """How many gold relations (of the task's labels) the candidate pairs can express, one type per pair."""
    asked, expressed = set(candidates(task, record)), gold_labels(task, record)

    def is_covered(relation: Relation) -> bool:
        pair, swapped = (relation.head, relation.tail), (relation.tail, relation.head)
        is_asked = pair in asked or (not task.directed and swapped in asked)
        return is_asked and expressed[pair] == relation.type

    distinct = {
        (r.type, r.head, r.tail): is_covered(r)
        for r in record.relations
        if r.type in task.labels and r.type.lower() != NONE
    }
    covered = sum(distinct.values())
    return Coverage(covered, len(distinct) - covered)
