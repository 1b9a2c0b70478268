"""Tasks taught over the API: learned beside the serving, scored on notes left out, served at once; notes go nowhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from clinprompt.backbone.model import Backbone
from clinprompt.evaluation.answer_line import answer_line
from clinprompt.evaluation.predict import predict_task
from clinprompt.prompts.artifact import Card, Metaprompt, backbone_note, load_task, save_metaprompt
from clinprompt.records import Record
from clinprompt.serving import teaching
from clinprompt.serving.app import create_app
from clinprompt.serving.keys import create_key
from clinprompt.serving.settings import ServerSettings
from clinprompt.serving.teaching import TeachSettings, metaprompt_for
from clinprompt.task_lookup import load_task as load_task_data
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.adapt import Plan
from tests.models import tiny
from tests.serving.taskfiles import note, task_files
from tests.serving.world import folder_of_tasks, service_on

SECRET = "Zyxwvut"  # stands in every note and nowhere else


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny("llama", bos=True)


@pytest.fixture
def client(backbone: Backbone, tmp_path: Path) -> Iterator[TestClient]:
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    (folder / "metaprompt.safetensors").write_bytes(b"one that is not served and must not be lost")
    settings = TeachSettings(notes=5, characters=200, steps=3, most_steps=5_000, keep=tmp_path / "kept")
    with TestClient(create_app(service_on(folder, backbone=backbone), settings)) as found:
        yield found


def lesson(count: int = 3, **changes: Any) -> dict[str, Any]:
    text = f"{SECRET} takes aspirin 5 mg."
    marks = [{"type": "Drug", "spans": [[14, 21]]}, {"type": "Dose", "spans": [[22, 26]]}]
    notes = [{"text": f"{text} ({number})", "entities": marks if number else []} for number in range(count)]
    return {
        "name": "doses", "kind": "entities", "labels": {"Drug": "a medicine", "Dose": ""}, "notes": notes,
    } | changes  # fmt: skip


def ended(client: TestClient, identifier: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found: dict[str, Any] = client.get(f"/v1/teach/{identifier}").json()
        if found["state"] not in ("learning", "scoring"):
            return found
        time.sleep(0.02)
    raise AssertionError("the lesson did not end")


def test_a_taught_task_answers_at_once(
    client: TestClient, backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    begun = client.post("/v1/teach", json=lesson())
    assert begun.status_code == 202, begun.text
    found = ended(client, begun.json()["id"])
    assert found["state"] == "done" and found["step"] == 3 and len(found["losses"]) == 3
    assert found["score"]["n"] == found["score"]["folds"] == 3 and found["score"]["metric"] == "strict_f1"
    assert client.get(f"/v1/teach/{found['id']}?since=2").json()["losses"] == found["losses"][2:]
    assert {task["name"] for task in client.get("/v1/tasks").json()["tasks"]} == {"entities", "doses"}

    content = client.get("/v1/tasks/doses/file").content
    assert len(content) == found["bytes"] and SECRET.encode() not in content
    (tmp_path / "copy.safetensors").write_bytes(content)
    file = load_task(tmp_path / "copy.safetensors")
    assert file.card.metrics["leave-one-out"]["n"] == 3 and file.card.data[0].records == 3
    assert list(file.task.labels) == ["Drug", "Dose"]  # the order is that of the instruction

    text = "He takes aspirin."
    answer = client.post("/v1/tasks/doses/predict", json={"documents": [text]}).json()["answers"][0]
    offline = answer_line(file.task, predict_task(backbone, file, [Record("0", text)])[0])
    assert [e["spans"] for e in answer["entities"]] == [e["spans"] for e in offline["entities"]]

    assert SECRET not in caplog.text and SECRET not in client.get("/metrics").text
    assert SECRET not in client.get(f"/v1/teach/{found['id']}").text
    kept = load_task_data(tmp_path / "kept" / "doses.yaml", splits=("train",))
    assert [len(record.entities) for record in kept.splits["train"]] == [0, 2, 2]


def test_labels_are_taught_with_their_question(client: TestClient) -> None:
    notes = [{"text": f"{SECRET} {number}", "label": label} for number, label in enumerate(["yes", "no", "yes"])]
    asked = lesson(name="smokes", kind="labels", labels={"yes": "", "no": ""}, notes=notes, question="Does she smoke?")
    found = ended(client, client.post("/v1/teach", json=asked).json()["id"])
    assert found["state"] == "done" and found["score"]["metric"] == "accuracy"
    card = client.get("/v1/tasks/smokes").json()["card"]["tasks"][0]
    assert card["description"] == "Does she smoke?" and card["answers"] == "labels"
    sent = {"documents": [{"text": "A note.", "question": card["description"]}]}
    assert set(client.post("/v1/tasks/smokes/predict", json=sent).json()["answers"][0]["probabilities"]) == {
        "yes",
        "no",
    }


def test_relations_are_taught_and_found_with_their_entities(client: TestClient, tmp_path: Path) -> None:
    asked = lesson(
        kind="relations", labels={"Drug": "", "Dose": ""}, relations={"given as": "", "stopped": ""}, name="doses"
    )
    for number, taught in enumerate(asked["notes"]):
        taught["relations"] = [{"type": "given as", "head": 0, "tail": 1}] if number else []
    found = ended(client, client.post("/v1/teach", json=asked).json()["id"])
    assert found["state"] == "done" and found["score"]["metric"] == "strict_f1"
    card = client.get("/v1/tasks/doses").json()["card"]["tasks"][0]
    assert (card["type"], card["entities"], list(card["labels"])) == ("relation", "predicted", ["given as", "stopped"])
    answer = client.post("/v1/tasks/doses/predict", json={"documents": ["He takes aspirin."]}).json()["answers"][0]
    assert {"entities", "relations", "ungrounded"} <= set(answer)
    kept = load_task_data(tmp_path / "kept" / "doses.yaml", splits=("train",)).splits["train"]
    assert [[(one.type, one.head, one.tail) for one in record.relations] for record in kept] == [
        [],
        [("given as", "T0", "T1")],
        [("given as", "T0", "T1")],
    ]


@pytest.mark.parametrize(
    ("kind", "metric", "type_", "field"),
    [("summary", "rougeL", "summarization", "summary"), ("answer", "token_f1", "qa", "answer")],
)
def test_texts_are_taught(client: TestClient, kind: str, metric: str, type_: str, field: str) -> None:
    notes = [{"text": f"{SECRET} takes drug {number}.", "wanted": f" drug {number} "} for number in range(3)]
    asked = lesson(name="texts", kind=kind, labels={}, notes=notes, question="" if kind == "summary" else "Which drug?")
    found = ended(client, client.post("/v1/teach", json=asked).json()["id"])
    assert found["state"] == "done" and found["score"]["metric"] == metric
    card = client.get("/v1/tasks/texts").json()["card"]["tasks"][0]
    assert card["type"] == type_ and card.get("description", "") == asked["question"]
    sent = {"documents": [{"text": "A note.", "question": "Which drug?"}]}
    assert field in client.post("/v1/tasks/texts/predict", json=sent).json()["answers"][0]


def test_every_note_is_scored_by_the_row_that_did_not_see_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[list[str]] = []
    asked: list[tuple[str, int]] = []
    real_adapt, real_answer = teaching.adapt, teaching.answer

    def adapt(backbone: Any, metaprompt: Any, given: Sequence[Plan], **rest: Any) -> Any:
        plans.extend([[record.id for record in plan.target.train] for plan in given])
        return real_adapt(backbone, metaprompt, given, **rest)

    def answer(decoder: Any, examples: Any, rows: Any, *rest: Any) -> Any:
        asked.extend(zip([example.record_id for example in examples], rows, strict=True))
        return real_answer(decoder, examples, rows, *rest)

    monkeypatch.setattr(teaching, "adapt", adapt)
    monkeypatch.setattr(teaching, "answer", answer)
    ended(client, client.post("/v1/teach", json=lesson(5)).json()["id"])
    everything = [f"{number:03}" for number in range(5)]
    assert plans[0] == everything and len(plans) == 6
    assert {record for record, _ in asked} == set(everything)
    assert all(record not in plans[row] and len(plans[row]) == 4 for record, row in asked)


def test_what_is_left_out_together_is_of_all_answers() -> None:
    records = [Record(str(n), "x", question="?", answer="no" if n % 2 else "yes") for n in range(20)]
    found = teaching.folds_of(records, 10)
    for fold in range(10):
        assert sorted(r.answer or "" for r, own in zip(records, found, strict=True) if own == fold) == ["no", "yes"]
    assert sorted(teaching.folds_of(records[:7], 7)) == list(range(7))


def test_cancelling_stops_the_lesson_and_serves_nothing(client: TestClient) -> None:
    begun = client.post("/v1/teach", json=lesson(steps=5_000)).json()
    second = client.post("/v1/teach", json=lesson(name="other"))
    assert second.status_code == 429 and int(second.headers["Retry-After"]) >= 1
    assert client.get("/v1/teach").json()["going"] == begun["id"]
    found = client.delete(f"/v1/teach/{begun['id']}").json()
    assert found["state"] == "cancelled" and found["step"] < 5_000
    assert [task["name"] for task in client.get("/v1/tasks").json()["tasks"]] == ["entities"]
    assert client.get("/v1/teach").json()["going"] is None
    assert client.delete("/v1/teach/none").status_code == 404


def test_answers_stay_right_while_a_lesson_runs(client: TestClient, backbone: Backbone) -> None:
    """One model serves and teaches at the same time: neither may disturb the other."""
    file = task_files(backbone)["entities"]
    expected = {n: answer_line(file.task, predict_task(backbone, file, [note(n)])[0]) for n in range(4)}
    begun = client.post("/v1/teach", json=lesson(steps=5_000)).json()
    for number, line in expected.items():
        body = {"documents": [note(number).text]}
        got = client.post("/v1/tasks/entities/predict", json=body).json()["answers"][0]
        assert [(e["type"], e["spans"]) for e in got["entities"]] == [(e["type"], e["spans"]) for e in line["entities"]]
        assert [u["text"] for u in got["ungrounded"]] == [u["text"] for u in line["ungrounded"]]
    assert client.get(f"/v1/teach/{begun['id']}").json()["state"] == "learning"
    client.delete(f"/v1/teach/{begun['id']}")


MARK = {"type": "Drug", "spans": [[0, 3]]}


def related(name: str, head: int, tail: int) -> list[dict[str, Any]]:
    """A note with two entities and a relation."""
    marks = [MARK, {"type": "Dose", "spans": [[4, 5]]}]
    return [{"text": f"xxx 5 {SECRET}", "entities": marks, "relations": [{"type": name, "head": head, "tail": tail}]}]


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"name": "entities"}, 422, "another name"),
        ({"name": "metaprompt"}, 422, "another name"),
        ({"name": "../x"}, 422, ""),
        ({"steps": 5_001}, 413, "5000"),
        ({"labels": {}}, 422, "labels"),
        ({"labels": {"a;b": ""}}, 422, "labels"),
        ({"notes": []}, 422, "notes"),
        ({"notes": [{"text": "x", "entities": []}]}, 422, "nothing is marked"),
        ({"notes": [{"text": "x", "entities": [MARK]}]}, 422, "notes.0.entities"),
        ({"notes": [{"text": "xxxx", "entities": [{"type": SECRET, "spans": [[0, 3]]}]}]}, 422, "notes.0.entities"),
        ({"notes": [{"text": "xxx", "entities": [MARK]}] * 6}, 413, "5"),
        ({"notes": [{"text": "x" * 201, "entities": [MARK]}]}, 413, "200 characters"),
        ({"kind": "labels"}, 422, "notes.0.label"),
        ({"kind": "relations"}, 422, "relations: name"),
        ({"kind": "relations", "relations": {"r": ""}}, 422, "no relation is marked"),
        ({"kind": "relations", "relations": {"r": ""}, "notes": related("r", 0, 2)}, 422, "notes.0.relations"),
        ({"kind": "relations", "relations": {"r": ""}, "notes": related("r", 1, 1)}, 422, "two different"),
        ({"kind": "relations", "relations": {"r": ""}, "notes": related(SECRET, 0, 1)}, 422, "notes.0.relations"),
        ({"notes": related("r", 0, 1)}, 422, "teach relations"),
        ({"kind": "summary"}, 422, "notes.0.wanted"),
        ({"kind": "answer"}, 422, "question"),
        ({"kind": "answer", "question": "What?", "notes": [{"text": "x", "wanted": "  "}]}, 422, "notes.0.wanted"),
        ({"kind": "labels", "labels": {"one": ""}}, 422, "two labels"),
    ],
)
def test_errors_say_what_to_do(client: TestClient, changes: dict[str, Any], status: int, says: str) -> None:
    found = client.post("/v1/teach", json=lesson(**changes))
    error = found.json()["error"]
    assert found.status_code == status and says in f"{error['place']}: {error['message']}"
    assert SECRET not in found.text and "a;b" not in found.text


def test_teaching_can_be_switched_off(backbone: Backbone, tmp_path: Path) -> None:
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    cases = [(TeachSettings(allowed=False), ServerSettings()), (None, ServerSettings(manage=False))]
    for own, settings in cases:
        with TestClient(create_app(service_on(folder, settings, backbone=backbone), own)) as client:
            about = client.get("/v1/teach").json()
            assert not about["allowed"] and len(about["reason"]) > 10
            assert client.post("/v1/teach", json=lesson()).status_code == 403


def test_teaching_needs_a_key_that_may_manage(backbone: Backbone, tmp_path: Path) -> None:
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    keys = tmp_path / "keys.json"
    reader = {"Authorization": f"Bearer {create_key(keys, 'reader')}"}
    owner = {"Authorization": f"Bearer {create_key(keys, 'owner', scopes=('predict', 'manage'))}"}
    with TestClient(create_app(service_on(folder, backbone=backbone, keys=keys), TeachSettings(steps=1))) as client:
        assert client.post("/v1/teach", json=lesson()).status_code == 401
        assert client.post("/v1/teach", json=lesson(), headers=reader).status_code == 403
        begun = client.post("/v1/teach", json=lesson(), headers=owner)
        assert begun.status_code == 202
        assert client.get(f"/v1/teach/{begun.json()['id']}", headers=reader).status_code == 403
        assert client.get("/").status_code == 200  # the page itself holds nothing


def test_the_metaprompt_of_the_backbone_is_found(backbone: Backbone, tmp_path: Path) -> None:
    def saved(name: str, own: Backbone) -> Path:
        task = TaskDefinition(name="a", type="ner", labels={"X": ""})
        card = Card(kind="metaprompt", backbone=backbone_note(own), position="start", tasks=(task,))
        path = tmp_path / name
        save_metaprompt(Metaprompt(torch.ones(4, 32), torch.ones(1, 4, 1), torch.ones(1, 32, 1), card), path)
        return path

    saved("a.safetensors", tiny("llama", seed=9))
    assert metaprompt_for(backbone, tmp_path) is None
    given = saved("b.metaprompt.safetensors", backbone)
    found = metaprompt_for(backbone, tmp_path, (given,))
    assert found is not None and found.card.backbone.fingerprint == backbone.fingerprint
    with TestClient(create_app(service_on(tmp_path, backbone=backbone), TeachSettings(steps=2))) as client:
        assert client.get("/v1/teach").json()["method"] == "mpt"
        done = ended(client, client.post("/v1/teach", json=lesson()).json()["id"])
        assert done["state"] == "done" and client.get("/v1/tasks/doses").json()["card"]["method"] == "mpt"
