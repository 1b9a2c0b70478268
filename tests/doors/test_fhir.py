"""FHIR: every bundle is valid for two packages, offsets select the mention, nothing is invented or silently dropped."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.doors.fhir import bundle, unmapped
from clinprompt.doors.fhir_check import validate
from clinprompt.doors.fhir_mapping import load_mapping
from clinprompt.errors import TaskError
from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from tests.doors.notes import records
from tests.doors.tasks import NER, NLI, QA, RELATE, SUM

MAPPING = load_mapping()
BASE = MAPPING.extension_base
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FIND, INFER, ASK, SHORTEN, LINK = (TaskDefinition.model_validate(d) for d in (NER, NLI, QA, SUM, RELATE))
TEXT = "Metformin 500 mg for diabetes of type 2 and obesity."


def mention(identifier: str, kind: str, *surfaces: str, concepts: tuple[str, ...] = ()) -> Entity:
    spans = tuple((TEXT.index(s), TEXT.index(s) + len(s)) for s in surfaces)
    return Entity(identifier, kind, spans, concepts)


NOTE = Record(
    "n 1",
    TEXT,
    (
        mention("T1", "Drug", "Metformin", concepts=("RxNorm:6809",)),
        mention("T2", "Dosage", "500 mg"),
        mention("T3", "Problem", "diabetes", "type 2", concepts=("C0011860",)),
        mention("T4", "Zodiac", "obesity"),
    ),
    (Relation("has dose", "T1", "T2"), Relation("treats", "T1", "T3"), Relation("near", "T3", "T4")),
)


def made(*answers: tuple[TaskDefinition, Prediction], **options: Any) -> dict[str, Any]:
    return bundle(list(answers), options.pop("mapping", MAPPING), when=WHEN, **options)


def of_kind(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e["resource"] for e in found["entry"] if e["resource"]["resourceType"] == kind]


def extensions(resource: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [e for e in resource["extension"] if e["url"] == f"{BASE}/{name}"]


def places(resource: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """The spans of a resource, read as another program would."""
    parts = [{p["url"]: p for p in e["extension"]} for e in extensions(resource, "text-span")]
    return tuple((p["start"]["valueUnsignedInt"], p["end"]["valueUnsignedInt"]) for p in parts)


def check(found: dict[str, Any]) -> None:
    """Both packages accept it after a trip through JSON, ids are unique and references resolve."""
    pytest.importorskip("fhir.resources", reason="extra `fhir` is not installed")
    r4 = pytest.importorskip("fhirclient.models.bundle", reason="fhirclient (dev) is not installed")
    again = json.loads(json.dumps(found))
    validate(again)
    r4.Bundle(again)
    names = [e["fullUrl"] for e in found["entry"]]
    assert len(set(names)) == len(names)
    assert set(_references(found)) <= set(names)


def _references(data: Any) -> list[str]:
    if isinstance(data, list):
        return [name for item in data for name in _references(item)]
    if isinstance(data, dict):
        own = [data["reference"]] if "reference" in data else []
        return own + [name for item in data.values() for name in _references(item)]
    return []


def test_one_note_as_resources() -> None:
    found = made((LINK, Prediction(NOTE)))
    check(found)
    (drug,) = of_kind(found, "MedicationStatement")
    assert drug["medicationCodeableConcept"] == {
        "coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "6809"}],
        "text": "Metformin",
    }
    assert drug["dosage"] == [{"text": "500 mg"}]
    (problem,) = of_kind(found, "Condition")
    assert problem["code"] == {"text": "diabetes type 2"}  # an identifier without a known system is no code
    assert [e["valueString"] for e in extensions(problem, "concept")] == ["C0011860"]
    assert places(problem) == NOTE.entities[2].spans
    assert "clinicalStatus" not in problem and "reference" not in problem["subject"]
    (relation,) = extensions(drug, "relation")
    target = relation["extension"][1]["valueReference"]["reference"]
    assert relation["extension"][0]["valueString"] == "treats"
    assert target == next(e["fullUrl"] for e in found["entry"] if e["resource"] is problem)
    (outcome,) = of_kind(found, "OperationOutcome")
    said = " ".join(issue["diagnostics"] for issue in outcome["issue"])
    assert "1 mentions of type Zodiac" in said and "1 relations of type near" in said
    assert unmapped([(LINK, Prediction(NOTE))], MAPPING) == {"Zodiac": 1}


def test_several_tasks_of_one_note() -> None:
    inferred = Record("n 1", TEXT, hypothesis="He is ill.", label="yes")
    asked = Record("n 1", TEXT, question="Which?", options=(("A", "a"), ("B", "b")), answer="B")
    short = Record("n 1", TEXT, summary="Diabetes.\x0c")
    found = made(
        (FIND, Prediction(NOTE, ungrounded=(("Drug", "Insulin"),), malformed=("x", "y"))),
        (INFER, Prediction(inferred, probabilities={"yes": 0.75, "no": 0.25})),
        (ASK, Prediction(asked)),
        (SHORTEN, Prediction(short, omitted=7)),
    )
    check(found)
    by_task = {o["code"]["text"]: o for o in of_kind(found, "Observation")}
    assert by_task["infer"]["valueCodeableConcept"] == {"text": "yes"}
    assert extensions(by_task["infer"], "probability")[0]["valueDecimal"] == 0.75
    assert by_task["ask"]["valueString"] == "B" and by_task["shorten"]["valueString"] == "Diabetes. "
    said = json.dumps(of_kind(found, "OperationOutcome"))
    assert "1 mentions of task find are not in the text" in said and "2 parts of the answer" in said
    assert "7 characters of the note were not shown to task shorten" in said
    assert "Insulin" not in json.dumps(found)
    assert len(of_kind(found, "DocumentReference")) == 1
    (provenance,) = of_kind(found, "Provenance")
    assert provenance["recorded"] == "2026-01-02T03:04:05Z" and len(provenance["target"]) == 5


def test_no_answer_is_said() -> None:
    found = made((ASK, Prediction(Record("n", TEXT, question="Which?", answer=" "))))
    check(found)
    assert "dataAbsentReason" in of_kind(found, "Observation")[0]


def test_patient_and_document_are_the_given_ones() -> None:
    record = Record("n", TEXT, NOTE.entities, meta={"subject": "Patient/7", "document": "DocumentReference/9"})
    found = made((FIND, Prediction(record)))
    assert of_kind(found, "DocumentReference") == []
    assert of_kind(found, "Condition")[0]["subject"] == {"reference": "Patient/7"}
    assert of_kind(found, "MedicationStatement")[0]["derivedFrom"] == [{"reference": "DocumentReference/9"}]
    with pytest.raises(TaskError, match=r"meta\.subject is no FHIR reference"):
        made((FIND, Prediction(Record("n", TEXT, meta={"subject": "the old man"}))))


def test_the_note_itself_only_on_request() -> None:
    plain, with_text = (made((FIND, Prediction(NOTE)), with_text=flag) for flag in (False, True))
    assert "data" not in of_kind(plain, "DocumentReference")[0]["content"][0]["attachment"]
    attachment = of_kind(with_text, "DocumentReference")[0]["content"][0]["attachment"]
    assert base64.b64decode(attachment["data"]).decode() == TEXT and attachment["size"] == len(TEXT)
    check(with_text)


def test_same_predictions_same_bundle() -> None:
    assert made((LINK, Prediction(NOTE))) == made((LINK, Prediction(NOTE)))


def test_predictions_on_two_texts_are_refused() -> None:
    with pytest.raises(TaskError, match="one bundle is about one note"):
        made((FIND, Prediction(NOTE)), (FIND, Prediction(Record("n 1", "Another."))))


@settings(deadline=None)  # a busy machine is no defect
@given(records(), st.booleans())
def test_any_record_gives_a_valid_bundle_that_selects_its_mentions(record: Record, with_text: bool) -> None:
    mapping = MAPPING.model_copy(update={"other": "Observation"}) if with_text else MAPPING
    found = made((LINK, Prediction(record)), mapping=mapping, with_text=with_text)
    check(found)
    written = [e["resource"] for e in found["entry"] if "text-span" in json.dumps(e["resource"].get("extension", []))]
    expected = [e for e in record.entities if mapping.resource(e.type)]
    assert [places(resource) for resource in written] == [e.spans for e in expected]
    codes = {
        c["code"]
        for r in written
        for k in ("code", "medicationCodeableConcept", "location")
        for c in r.get(k, {}).get("coding", [])
    }
    assert codes <= {c.partition(":")[2].strip() for e in expected for c in e.concepts}
    said = sum(
        int(i["diagnostics"].split()[0])
        for o in of_kind(found, "OperationOutcome")
        for i in o["issue"]
        if "mentions" in i["diagnostics"]
    )
    parts = [e for e in record.entities if not mapping.resource(e.type) and mapping.part(e.type)]
    dropped = sum(unmapped([(LINK, Prediction(record))], mapping).values())
    assert dropped <= said <= dropped + len(parts)


def test_own_mapping_is_laid_over_the_shipped_one(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "extension_base: https://my.example/x\ntypes: {ZODIAC: Observation, drug: null}\nsystems: {'': http://u}\n"
    )
    mapping = load_mapping(own)
    assert mapping.resource("zodiac") == "Observation" and mapping.resource("Drug") is None
    assert mapping.resource("disease") == "Condition"
    assert mapping.coding("C1") == {"system": "http://u", "code": "C1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("types: {Drug: Patient}", r"`types\.drug`"),
        ("typos: {}", "`typos`"),
        ("types: 3", "`types`"),
        ("types: [", ":1: not valid YAML|not valid YAML"),
        ("- a", "a mapping with some of"),
        ("extension_base: nowhere", "`extension_base`"),
    ],
)
def test_a_broken_mapping_is_explained(tmp_path: Path, text: str, message: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(TaskError, match=message) as caught:
        load_mapping(own)
    assert str(own) in str(caught.value)
    with pytest.raises(TaskError, match="cannot be read"):
        load_mapping(tmp_path / "none.yaml")


def test_validation_names_places_not_values() -> None:
    pytest.importorskip("fhir.resources", reason="extra `fhir` is not installed")
    broken = made((LINK, Prediction(NOTE)))
    of_kind(broken, "Condition")[0]["code"] = {"txt": "SECRET"}
    with pytest.raises(TaskError, match="not a valid FHIR bundle at: entry") as caught:
        validate(broken)
    assert "SECRET" not in str(caught.value)


def test_two_versions_of_a_task_are_entries_of_their_own() -> None:
    """As the page asks them to compare: the same mentions, labels and answers, from task files of the same name."""
    said = replace(NOTE, label="yes", answer="obesity", summary="ill")
    tasks = [FIND, INFER, ASK, SHORTEN]
    once = made(*((task, Prediction(said)) for task in tasks))
    twice = made(*((task, Prediction(said)) for task in tasks for _ in range(2)))
    urls = [entry["fullUrl"] for entry in twice["entry"]]
    assert len(set(urls)) == len(urls)
    read = [[entry["fullUrl"] for entry in found["entry"] if about_note(entry)] for found in (once, twice)]
    assert set(read[0]) < set(read[1]) and len(read[1]) == 2 * len(read[0])
    [provenance] = of_kind(twice, "Provenance")
    assert {target["reference"] for target in provenance["target"]} == set(read[1])
    validate(twice)


def about_note(entry: dict[str, Any]) -> bool:
    return entry["resource"]["resourceType"] not in ("DocumentReference", "Device", "Provenance", "OperationOutcome")
