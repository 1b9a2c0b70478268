"""Public corpora of relations over whole documents or sentences with several entities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from clinprompt.corpora.brat import read_brat
from clinprompt.corpora.pubtator import read_pubtator
from clinprompt.corpora.source import checked_entity, numbered_lines, read_text
from clinprompt.corpora.splits import Splits, by_hash
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

# --- relations between concepts ---------------------------------------------------------------------------------------


def cdr_cid(folder: Path) -> Splits:
    """Abstracts with chemical-induced diseases; candidates are all (chemical, disease) concept pairs."""
    names = {"train": "Training", "validation": "Development", "test": "Test"}
    return {
        split: [_cid_record(record) for record in read_pubtator(folder / f"CDR_{name}Set.PubTator.txt.gz")]
        for split, name in names.items()
    }


def _cid_record(record: Record) -> Record:
    concepts = _concept_types(record)
    chemicals = [c for c, kind in concepts.items() if kind == "Chemical"]
    diseases = [c for c, kind in concepts.items() if kind == "Disease"]
    pairs = tuple((chemical, disease) for chemical in chemicals for disease in diseases)
    return replace(record, group=record.id, meta={"pairs": pairs})


_BIORED_RELATED = frozenset(
    frozenset(types)
    for types in (
        ("DiseaseOrPhenotypicFeature", "GeneOrGeneProduct"),
        ("DiseaseOrPhenotypicFeature", "ChemicalEntity"),
        ("DiseaseOrPhenotypicFeature", "SequenceVariant"),
        ("GeneOrGeneProduct",),
        ("GeneOrGeneProduct", "ChemicalEntity"),
        ("ChemicalEntity",),
        ("ChemicalEntity", "SequenceVariant"),
        ("SequenceVariant",),
    )
)


def biored(folder: Path) -> Splits:
    """Abstracts with relations between concepts; the published order of two arguments carries no meaning."""
    names = {"train": "Train", "validation": "Dev", "test": "Test"}
    return {
        split: [_biored_record(record) for record in read_pubtator(folder / f"{name}.PubTator")]
        for split, name in names.items()
    }


def _biored_record(record: Record) -> Record:
    """Candidates are the pairs of types that the guidelines relate; both they and the gold go in text order."""
    record = replace(record, entities=_distinct(record.entities))
    concepts = _concept_types(record)
    rank = {concept: index for index, concept in enumerate(concepts)}
    pairs = tuple(
        (first, second)
        for first, second in combinations(concepts, 2)
        if frozenset((concepts[first], concepts[second])) in _BIORED_RELATED
    )
    relations = []
    for relation in record.relations:
        head, tail = sorted((relation.head, relation.tail), key=lambda concept: rank.get(concept, len(rank)))
        relations.append(replace(relation, head=head, tail=tail))
    return replace(record, relations=tuple(relations), group=record.id, meta={"pairs": pairs})


def _distinct(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """BioRED lists some mentions twice; the first one is kept."""
    kept: dict[Any, Entity] = {}
    for entity in entities:
        kept.setdefault((entity.spans, entity.type, entity.concepts), entity)
    return tuple(kept.values())


def _concept_types(record: Record) -> dict[str, str]:
    """Concept → type, in order of first mention."""
    types: dict[str, str] = {}
    for entity in sorted(record.entities, key=lambda e: e.spans):
        for concept in entity.concepts:
            types.setdefault(concept, entity.type)
    return types


# --- relations between mentions ---------------------------------------------------------------------------------------


def maccrobat_relations(folder: Path) -> Splits:
    """Whole case reports with entities and the two-place relations between them (events stand for their triggers)."""
    return by_hash(replace(record, group=record.id, meta={}) for record in read_brat(folder))


_PHEE_EVENTS = {"Adverse_event": "adverse_effect", "Potential_therapeutic_event": "therapeutic_effect"}
_PHEE_ARGUMENTS = {  # argument of a treatment → (entity type, relation from the drug)
    "Disorder": ("Disorder", "treats"),
    "Dosage": ("Dosage", "dosage"),
    "Route": ("Route", "route"),
    "Freq": ("Frequency", "frequency"),
    "Duration": ("Duration", "duration"),
    "Time_elapsed": ("Time_elapsed", "time_elapsed"),
}


def phee(folder: Path) -> Splits:
    """Sentences whose events are written as relations.

    An event's drugs (or the treatment mention, where none is marked as a drug) are the heads; tails are its effects
    and the treatment's arguments. Drugs given together are related in text order. Triggers, subjects and the severity,
    negation and speculation of events are not part of the task.
    """
    names = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
    return {split: list(_phee_file(folder / "json" / name)) for split, name in names.items()}


def _phee_file(path: Path) -> Iterator[Record]:
    for number, line in numbered_lines(read_text(path)):
        try:
            row = json.loads(line)
            yield _PheeSentence(path, number, row["context"]).record(row)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"not a PHEE sentence ({type(error).__name__})."
            raise CorpusError(path, number, problem, "The file is not the one the catalog pins.") from None


@dataclass(slots=True)
class _PheeSentence:
    path: Path
    line: int
    text: str
    entities: dict[Any, Entity] = field(default_factory=dict)
    relations: dict[tuple[str, str, str], Relation] = field(default_factory=dict)

    def record(self, row: Mapping[str, Any]) -> Record:
        for annotation in row["annotations"]:
            for event in annotation["events"]:
                self._event(event)
        entities = sorted(self.entities.values(), key=lambda e: (e.spans, e.type))
        identifier = str(row["id"])
        return Record(
            identifier,
            self.text,
            entities=tuple(entities),
            relations=tuple(self.relations.values()),
            group=identifier.rpartition("_")[0],
        )

    def _event(self, event: Mapping[str, Any]) -> None:
        effects = self._mentions(event.get("Effect"), "Effect")
        treatment = event.get("Treatment") or {}
        drugs = self._mentions(treatment.get("Drug"), "Drug") or self._mentions(treatment, "Treatment")
        for drug in drugs:
            for effect in effects:
                self._relate(_PHEE_EVENTS[event["event_type"]], drug, effect)
            for name, (kind, relation) in _PHEE_ARGUMENTS.items():
                for argument in self._mentions(treatment.get(name), kind):
                    self._relate(relation, drug, argument)
        for combination in treatment.get("Combination", ()):
            together = self._mentions(combination.get("Drug"), "Drug")
            for first, second in combinations(sorted(together, key=lambda e: e.spans), 2):
                self._relate("combined_with", first, second)

    def _mentions(self, argument: Mapping[str, Any] | None, kind: str) -> list[Entity]:
        """The mentions of one argument; the same mention in another event is the same entity."""
        if not argument:
            return []
        found = []
        for texts, starts in zip(argument["text"], argument["start"], strict=True):
            spans = tuple(sorted((start, start + len(t)) for t, start in zip(texts, starts, strict=True)))
            key = (kind, spans)
            if key not in self.entities:
                self.entities[key] = checked_entity(
                    self.path, self.line, self.text, id=f"T{len(self.entities) + 1}", type=kind, spans=spans
                )
            found.append(self.entities[key])
        return found

    def _relate(self, kind: str, head: Entity, tail: Entity) -> None:
        if head.id != tail.id:
            key = (kind, head.id, tail.id)
            self.relations.setdefault(key, Relation(*key, id=f"R{len(self.relations) + 1}"))
