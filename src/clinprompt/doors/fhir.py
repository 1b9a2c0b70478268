"""One note's predictions, of one task or several, as a FHIR R4 bundle (http://hl7.org/fhir/R4).

Plain JSON-ready dicts; no package is needed to write them, and `fhir_check` validates them. What the model did not say
is not said: no code that is no concept of the record, no clinical status, no date, no patient that was not given. Every
resource refers to the note's DocumentReference and to the characters it was read from. Ids are derived from their
content, so that the same predictions give the same bundle.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clinprompt.doors.fhir_mapping import Mapping, Part
from clinprompt.errors import TaskError
from clinprompt.records import Entity, Record
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.version import __version__

Json = dict[str, Any]
NAMESPACE = uuid.UUID("7d0d3c1e-5a0f-5c0b-9a3e-6f6c696e7072")  # arbitrary and fixed: our ids are UUIDs of version 5
ABSENT = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}
VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
SUBJECT_FIELD = {"BodyStructure": "patient"}
# R4 strings hold no control characters but tab, line feed and carriage return, and are not only white space.
_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"^(?:https?://\S+|urn:(?:uuid|oid):\S+|[A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})$")


@dataclass
class _Note:
    """What the resources of one note share, and what is found on the way."""

    record: Record
    mapping: Mapping
    document: str  # the reference all resources point to
    subject: Json
    entries: list[tuple[str, Json]] = field(default_factory=list)  # (fullUrl, resource)
    turn: int = 0  # which answer of this task it is: two versions of one task may have read the note
    issues: Counter[str] = field(default_factory=Counter)

    def url(self, name: str) -> str:
        return f"{self.mapping.extension_base}/{name}"

    def add(self, resource: Json, *identity: object) -> str:
        """Put a resource into the bundle under an id made of `identity`; returns the reference to it."""
        known = [self.record.id, self.record.text, resource["resourceType"], *identity]
        known += [self.turn] if self.turn else []  # the first one's ids do not depend on who else was asked
        name = f"urn:uuid:{uuid.uuid5(NAMESPACE, repr(known).encode('utf-8', 'backslashreplace').hex())}"
        self.entries.append((name, resource))
        return name


def bundle(
    answers: Sequence[tuple[TaskDefinition, Prediction]],
    mapping: Mapping,
    *,
    with_text: bool = False,
    when: datetime | None = None,
) -> Json:
    """A Bundle of type `collection` with all that the tasks said about one note.

    `answers`: predictions for the same record. `record.meta` may name the patient (`subject`: a reference such as
    ``Patient/7``) and an existing DocumentReference (`document`); without one, a DocumentReference with size and hash
    of the note is written, and with `with_text` the note itself. `when`: the moment for Provenance, default now.
    Raises TaskError for predictions on different texts and for references that FHIR does not know.
    """
    record = answers[0][1].record
    if any((p.record.id, p.record.text) != (record.id, record.text) for _, p in answers):
        raise TaskError(f"record {record.id!r}: one bundle is about one note, but the predictions are on several.")
    note = _Note(record, mapping, "", _reference(record, "subject") or ABSENT)
    given = _reference(record, "document")
    note.document = given["reference"] if given else note.add(_document(note, with_text), "document")
    targets: list[str] = []
    before: Counter[str] = Counter()
    for task, prediction in answers:
        note.turn = before[task.name]
        before[task.name] += 1
        targets += _task(note, task, prediction)
    note.turn = 0
    device = note.add(_device(answers), "device", *(task.name for task, _ in answers))
    if targets:
        note.add(_provenance(note, targets, device, when or datetime.now(UTC)), "provenance", *targets)
    if note.issues:
        note.add(_outcome(note.issues), "outcome")
    entries = [{"fullUrl": name, "resource": resource} for name, resource in note.entries]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def unmapped(answers: Sequence[tuple[TaskDefinition, Prediction]], mapping: Mapping) -> Counter[str]:
    """Entity types that become no resource and are no part of one, with their numbers of mentions."""
    entities = [entity for _, prediction in answers for entity in prediction.record.entities]
    return Counter(e.type for e in entities if mapping.resource(e.type) is None and mapping.part(e.type) is None)


# --- the note and who read it -----------------------------------------------------------------------------------------


def _reference(record: Record, key: str) -> Json | None:
    value = record.meta.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not _REFERENCE.match(value):
        cure = "Give one such as Patient/7 or an https URL."
        raise TaskError(f"record {record.id!r}: meta.{key} is no FHIR reference. {cure}")
    return {"reference": value}


def _document(note: _Note, with_text: bool) -> Json:
    raw = note.record.text.encode("utf-8", "backslashreplace")
    attachment: Json = {
        "contentType": "text/plain; charset=utf-8",
        "size": len(raw),
        "hash": base64.b64encode(hashlib.sha1(raw, usedforsecurity=False).digest()).decode(),  # R4 asks for SHA-1
    }
    if with_text and raw:
        attachment["data"] = base64.b64encode(raw).decode()
    found: Json = {"resourceType": "DocumentReference", "status": "current", "content": [{"attachment": attachment}]}
    if name := _text(note.record.id):
        found["identifier"] = [{"value": name}]
    return found | ({} if note.subject is ABSENT else {"subject": note.subject})


def _device(answers: Sequence[tuple[TaskDefinition, Prediction]]) -> Json:
    return {
        "resourceType": "Device",
        "deviceName": [{"name": "clinprompt", "type": "model-name"}],
        "version": [{"value": __version__}],
        "note": [{"text": "Tasks: " + ", ".join(task.name for task, _ in answers)}],
    }


def _provenance(note: _Note, targets: Sequence[str], device: str, when: datetime) -> Json:
    return {
        "resourceType": "Provenance",
        "target": [{"reference": target} for target in targets],
        "recorded": when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "agent": [{"type": {"coding": [{"system": PARTICIPANT, "code": "assembler"}]}, "who": {"reference": device}}],
        "entity": [{"role": "source", "what": {"reference": note.document}}],
    }


def _outcome(issues: Counter[str]) -> Json:
    lines = [f"{count} {what}" for what, count in sorted(issues.items())]
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "warning", "code": "informational", "diagnostics": line} for line in lines],
    }


# --- what a task said -------------------------------------------------------------------------------------------------


def _task(note: _Note, task: TaskDefinition, prediction: Prediction) -> list[str]:
    """All resources of one task; returns the references to them."""
    for what, count in (
        (f"mentions of task {task.name} are not in the text and were left out", len(prediction.ungrounded)),
        (f"parts of the answer of task {task.name} follow no format and were left out", len(prediction.malformed)),
        (f"characters of the note were not shown to task {task.name}", prediction.omitted),
    ):
        note.issues.update({what: count} if count else {})
    if task.type in ("ner", "relation"):
        return _mentions(note, task, prediction.record)
    return _answer(note, task, prediction)


def _answer(note: _Note, task: TaskDefinition, prediction: Prediction) -> list[str]:
    """A label, an answer or a summary as an Observation whose code is the task's name."""
    record = prediction.record
    value = {"nli": record.label, "qa": record.answer, "summarization": record.summary}[task.type]
    found = _base(note, "Observation") | {"status": "preliminary", "code": {"text": task.name}}
    if task.type == "nli" and (label := _text(value)):
        found["valueCodeableConcept"] = {"text": label}
    elif text := _text(value):
        found["valueString"] = text
    else:
        found["dataAbsentReason"] = {"text": "the model gave no answer"}
    chosen = prediction.probabilities.get(value or "")
    if chosen is not None and math.isfinite(chosen):
        found["extension"] = [{"url": note.url("probability"), "valueDecimal": round(chosen, 4)}]
    asked = (record.question, record.hypothesis, record.options)
    return [note.add(found, task.name, asked)]


def _mentions(note: _Note, task: TaskDefinition, record: Record) -> list[str]:
    written: dict[str, tuple[str, Json]] = {}  # entity id: (reference, resource)
    for entity in record.entities:
        kind = note.mapping.resource(entity.type)
        if kind is not None:
            resource = _mention(note, kind, entity, task)
            written[entity.id] = (note.add(resource, task.name, entity.id, entity.type, entity.spans), resource)
        elif note.mapping.part(entity.type) is None:
            note.issues[f"mentions of type {entity.type} have no resource in the mapping and were left out"] += 1
    _relations(note, record, written)
    return [reference for reference, _ in written.values()]


def _base(note: _Note, kind: str) -> Json:
    """What all resources about the note begin with: the patient where one is known or asked for, and the source."""
    found: Json = {"resourceType": kind}
    if kind != "Observation" or note.subject is not ABSENT:
        found[SUBJECT_FIELD.get(kind, "subject")] = note.subject
    if kind in ("Observation", "MedicationStatement"):
        found["derivedFrom"] = [{"reference": note.document}]
    if kind == "Condition":
        found["evidence"] = [{"detail": [{"reference": note.document}]}]
    return found


def _mention(note: _Note, kind: str, entity: Entity, task: TaskDefinition) -> Json:
    concept, foreign = _concept(note, entity)
    found = _base(note, kind)
    if kind == "Condition":
        found |= {"verificationStatus": {"coding": [{"system": VERIFICATION, "code": "unconfirmed"}]}, "code": concept}
    elif kind == "Observation":
        found |= {"status": "preliminary", "code": concept}
    elif kind == "MedicationStatement":
        found |= {"status": "unknown", "medicationCodeableConcept": concept}
    elif kind == "Procedure":
        found |= {"status": "unknown", "code": concept}
    else:
        found |= {"location": concept}
    labels = [("task", task.name), ("entity-type", _text(entity.type)), *(("concept", name) for name in foreign)]
    extensions = [_span(note, span) for span in entity.spans]
    found["extension"] = extensions + [{"url": note.url(name), "valueString": value} for name, value in labels if value]
    return found


def _concept(note: _Note, entity: Entity) -> tuple[Json, list[str]]:
    """The mention's words and the codes of its concepts; and the concepts whose code system is not known."""
    surface = _text(entity.text_in(note.record.text)) or _text(entity.type) or "(blank)"
    codings = {concept: note.mapping.coding(concept) for concept in entity.concepts}
    known = [coding for coding in codings.values() if coding]
    concept: Json = {"coding": known, "text": surface} if known else {"text": surface}
    return concept, [text for name, coding in codings.items() if not coding and (text := _text(name))]


def _span(note: _Note, span: tuple[int, int]) -> Json:
    """Where a fragment stands: half-open, in Unicode code points of the note (not UTF-16 units, not bytes)."""
    return {
        "url": note.url("text-span"),
        "extension": [
            {"url": "start", "valueUnsignedInt": span[0]},
            {"url": "end", "valueUnsignedInt": span[1]},
            {"url": "document", "valueReference": {"reference": note.document}},
        ],
    }


def _relations(note: _Note, record: Record, written: dict[str, tuple[str, Json]]) -> None:
    """Parts of a medication go to its dosage or reason; any other relation into an extension of its head.

    A relation between concepts is one between the first mention of each.
    """
    parts: dict[tuple[str, Part], dict[str, Entity]] = {}  # (medication's id, place): parts by id
    for relation in record.relations:
        heads, tails = record.mentions(relation.head), record.mentions(relation.tail)
        pair = (heads[0], tails[0]) if heads and tails else None
        if pair and (found := _part(note, pair[0], pair[1], written) or _part(note, pair[1], pair[0], written)):
            place, part = found
            parts.setdefault(place, {})[part.id] = part
        elif pair and pair[0].id in written and pair[1].id in written:
            _link(note, relation.type, written[pair[0].id][1], written[pair[1].id][0])
        else:
            note.issues[f"relations of type {relation.type} join what is no resource and were left out"] += 1
    for (medication, kind), members in parts.items():
        ordered = sorted(members.values(), key=lambda e: e.spans)
        if text := ", ".join(filter(None, (_text(e.text_in(record.text)) for e in ordered))):
            written[medication][1]["dosage" if kind == "dosage" else "reasonCode"] = [{"text": text}]
    attached = {identifier for members in parts.values() for identifier in members}
    for entity in record.entities:
        if entity.id not in written and entity.id not in attached and note.mapping.part(entity.type):
            note.issues[f"mentions of type {entity.type} belong to no medication and were left out"] += 1


def _part(
    note: _Note, whole: Entity, part: Entity, written: dict[str, tuple[str, Json]]
) -> tuple[tuple[str, Part], Entity] | None:
    """Where `part` belongs if it is a dosage or reason of the medication `whole`."""
    place = note.mapping.part(part.type)
    if not place or whole.id not in written or part.id in written:
        return None
    return ((whole.id, place), part) if written[whole.id][1]["resourceType"] == "MedicationStatement" else None


def _link(note: _Note, kind: str, head: Json, tail: str) -> None:
    head["extension"].append(
        {
            "url": note.url("relation"),
            "extension": [
                {"url": "type", "valueString": _text(kind) or "(blank)"},
                {"url": "target", "valueReference": {"reference": tail}},
            ],
        }
    )


def _text(value: str | None) -> str:
    """A string that R4 allows, "" for one that is empty or only white space."""
    cleaned = _CONTROL.sub(" ", value or "")
    return cleaned if cleaned.strip() else ""
