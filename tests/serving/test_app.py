"""The API in a test client: predictions equal to offline ones, errors, keys, limits, tasks added and removed."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from clinprompt.backbone.model import Backbone
from clinprompt.evaluation.answer_line import answer_line
from clinprompt.evaluation.predict import predict_task
from clinprompt.prompts.artifact import packaged_metaprompt, save_task
from clinprompt.records import Record
from clinprompt.serving.app import create_app
from clinprompt.serving.batching import BatchLimits
from clinprompt.serving.keys import create_key
from clinprompt.serving.settings import ServerSettings
from tests.models import tiny
from tests.serving.taskfiles import note, task_file, task_files
from tests.serving.world import folder_of_tasks, service_on


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny("llama", bos=True)


@pytest.fixture(scope="module")
def client(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = folder_of_tasks(tmp_path_factory.mktemp("app"), backbone)
    settings = ServerSettings(documents=3, tasks=4, document_tokens=3000, questions=40, body_bytes=20_000)
    with TestClient(create_app(service_on(folder, settings, backbone=backbone))) as found:
        yield found


def document(record: Record) -> dict[str, Any]:
    entities = [{"id": e.id, "type": e.type, "spans": [list(s) for s in e.spans]} for e in record.entities]
    return {
        "id": f"note {record.id}",
        "text": record.text,
        "hypothesis": record.hypothesis,
        "question": record.question,
        "entities": entities,
    }


def test_several_tasks_over_documents_equal_offline(client: TestClient, backbone: Backbone) -> None:
    names, records = ["entities", "follows", "treats", "summary"], [note(1), note(2, 6)]
    sent = {"documents": [document(record) for record in records]}
    found = client.post(f"/v1/tasks/{','.join(names)}/predict", json=sent)
    assert found.status_code == 200, found.text
    answers = found.json()["answers"]
    assert [(a["id"], a["task"]) for a in answers] == [(f"note {r.id}", name) for r in records for name in names]
    files = task_files(backbone)
    for got, (record, name) in zip(answers, [(r, n) for r in records for n in names], strict=True):
        line = answer_line(files[name].task, predict_task(backbone, files[name], [record])[0])
        for key in ("entities", "relations", "ungrounded"):
            assert [without_confidence(one) for one in got.get(key, [])] == line.get(key, [])
        assert all(got.get(key) == line.get(key) for key in ("label", "summary", "malformed"))
        assert got.get("probabilities", {}) == pytest.approx(line.get("probabilities", {}), abs=1e-4)
    assert answers[1]["confidence"] == max(answers[1]["probabilities"].values())
    assert found.json()["usage"]["questions"] >= 8


def without_confidence(item: dict[str, Any]) -> dict[str, Any]:
    assert 0 <= item.get("confidence", 0) <= 1
    return {key: value for key, value in item.items() if key != "confidence"}


@pytest.mark.parametrize(
    ("address", "body", "status", "place"),
    [
        ("/v1/tasks/nothing/predict", {"documents": ["x"]}, 404, None),
        ("/v1/tasks/follows/predict", {"documents": ["x"]}, 422, None),
        ("/v1/tasks/entities/predict", {"documents": []}, 422, "documents"),
        ("/v1/tasks/entities/predict", {"documents": ["x"], "secret key": 1}, 422, "(unknown)"),
        ("/v1/tasks/entities/predict", {"documents": ["x"], "constrained": 0}, 422, "constrained"),
        ("/v1/tasks/entities/predict", {"documents": ["x"], "constrained": "yes"}, 422, "constrained"),
        ("/v1/tasks/follows/predict", {"documents": [{"text": "x", "hypothesis": "y", "entities": [
            {"id": "a", "type": "t", "spans": [["0", 1]]}]}]}, 422, "documents.0"),
        ("/v1/completions", {"model": "entities", "prompt": "x", "max_tokens": "3"}, 422, "max_tokens"),
        ("/v1/tasks/entities/predict", {"documents": ["x"] * 4}, 413, None),
        ("/v1/tasks/entities,drugs,summary,follows,treats/predict", {"documents": ["x"]}, 413, None),
        ("/v1/tasks/entities/predict", {"documents": ["x" * 5000]}, 413, None),
        ("/v1/tasks/entities/predict", {"documents": ["x" * 30_000]}, 413, None),
        ("/v1/tasks/treats/predict", {"documents": [{"text": "x", "entities": [
            {"id": "a", "type": "t", "spans": [[0, 9]]}]}]}, 422, None),
        ("/v1/nothing", {}, 404, None),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(client: TestClient, address: str, body: Any, status: int, place: str | None) -> None:
    found = client.post(address, json=body)
    error = found.json()["error"]
    assert found.status_code == status and len(error["message"]) > 10
    if place:
        assert place in error["place"]
    assert "secret key" not in found.text and "nothing" not in error["message"].replace("there is nothing", "")


def test_questions_are_counted_over_all_documents_before_pairs_are_written_out(client: TestClient) -> None:
    one = {"id": "a", "type": "Drug", "spans": [[0, 1]]}
    many = {"text": "x", "entities": [one | {"id": str(n)} for n in range(200)]}
    few = {"text": "x", "entities": [one | {"id": str(n)} for n in range(5)]}
    started = time.monotonic()
    for documents, status in (([many], 413), ([few] * 2, 200), ([few] * 3, 413)):  # 39,800, 40 and 60 of 40
        found = client.post("/v1/tasks/treats/predict", json={"documents": documents})
        assert found.status_code == status, found.text
    asked = {"model": "treats", "messages": [{"role": "user", "content": json.dumps(many)}]}
    assert client.post("/v1/chat/completions", json=asked).status_code == 413
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("address", "methods"),
    [("/v1/tasks/entities", "DELETE, GET, PUT"), ("/v1/teach", "GET, POST"), ("/v1/tasks/entities/predict", "POST")],
)
def test_a_wrong_method_is_told_all_that_the_address_takes(client: TestClient, address: str, methods: str) -> None:
    found = client.request("OPTIONS", address)
    assert (found.status_code, found.headers["Allow"]) == (405, methods)


def test_json_under_another_name_is_told_the_header(client: TestClient) -> None:
    for sent in ({"content": b'{"documents": ["x"]}'}, {"data": {"documents": "x"}}, {}):
        found = client.post("/v1/tasks/entities/predict", **sent)
        assert found.status_code == 422 and "Content-Type: application/json" in found.json()["error"]["message"]


def test_not_json(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b'{"documents": [' + b"1" * 5000 + b"]}"):
        found = client.post("/v1/tasks/entities/predict", content=content, headers=headers)
        assert found.status_code in (400, 413, 422) and "message" in found.json()["error"]


def test_listing_and_card(client: TestClient) -> None:
    listed = client.get("/v1/tasks").json()
    assert {task["name"] for task in listed["tasks"]} == set(task_files(tiny("llama", bos=True)))
    card = client.get("/v1/tasks/entities").json()
    assert card["card"]["kind"] == "task" and card["bytes"] > 0 and list(card["labels"]) == ["Drug", "Problem"]
    file = client.get("/v1/tasks/entities/file")
    assert len(file.content) == card["bytes"] and client.get("/v1/tasks/nope").status_code == 404


def test_health_metrics_docs(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "ok" and client.get("/ready").json()["ready"]
    assert "/v1/tasks/{names}/predict" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == 200
    assert client.post("/v1/tasks/entities/predict", json={"documents": ["x"]}).status_code == 200
    metrics = client.get("/metrics").text
    assert "clinprompt_tasks 7.0" in metrics and 'clinprompt_documents_total{task="entities"}' in metrics


def test_tasks_come_and_go_over_http(backbone: Backbone, tmp_path: Path) -> None:
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    new = tmp_path / "new.safetensors"
    save_task(task_file(backbone, "any-name", "summarization", seed=9), new)
    (folder / "broken.safetensors").write_bytes(b"no")
    with TestClient(create_app(service_on(folder, backbone=backbone))) as client:
        assert [one["name"] for one in client.get("/v1/tasks").json()["refused"]] == ["broken"]
        put = client.put("/v1/tasks/short", content=new.read_bytes())
        assert put.status_code == 200 and put.json()["task"] == "any-name"
        assert client.post("/v1/tasks/short/predict", json={"documents": ["x"]}).json()["answers"][0]["summary"]
        bad = client.put("/v1/tasks/short", content=b"not a file")
        assert bad.status_code == 422 and str(tmp_path) not in bad.text
        other = tmp_path / "other.safetensors"
        save_task(task_file(tiny("llama", seed=4), "o", "summarization"), other)
        assert client.put("/v1/tasks/short", content=other.read_bytes()).status_code == 422
        assert client.put("/v1/tasks/a,b", content=new.read_bytes()).status_code == 422
        (folder / "shared.safetensors").write_bytes(packaged_metaprompt().read_bytes())
        taken = client.put("/v1/tasks/shared", content=new.read_bytes())
        assert taken.status_code == 422 and "name of a metaprompt" in taken.text
        (folder / "shared.safetensors").unlink()
        assert (folder / "short.safetensors").read_bytes() == new.read_bytes()
        assert client.delete("/v1/tasks/short").status_code == 204
        assert client.delete("/v1/tasks/short").status_code == 404
        assert sorted(path.name for path in folder.iterdir()) == ["broken.safetensors", "entities.safetensors"]
    with TestClient(create_app(service_on(folder, ServerSettings(manage=False), backbone=backbone))) as client:
        assert client.put("/v1/tasks/short", content=new.read_bytes()).status_code == 403


def test_keys_scopes_rates_and_audit(backbone: Backbone, tmp_path: Path) -> None:
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    keys, audit = tmp_path / "keys.json", tmp_path / "audit.jsonl"
    ward = create_key(keys, "ward")
    ops = create_key(keys, "ops", scopes=("predict", "manage"))
    slow = create_key(keys, "slow", per_minute=6)
    assert ward not in keys.read_text() and keys.stat().st_mode & 0o077 == 0
    service = service_on(folder, backbone=backbone, keys=keys, audit=audit)
    with TestClient(create_app(service)) as client:

        def ask(key: str | None) -> Any:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return client.post("/v1/tasks/entities/predict", json={"documents": ["a note"]}, headers=headers)

        assert ask(None).status_code == 401 and ask("cp-wrong").status_code == 401
        assert ask(ward).status_code == 200
        assert client.get("/metrics", headers={"Authorization": f"Bearer {ward}"}).status_code == 403
        assert client.get("/metrics", headers={"Authorization": f"Bearer {ops}"}).status_code == 200
        assert ask(slow).status_code == 200
        refused = ask(slow)
        assert refused.status_code == 429 and 1 <= int(refused.headers["Retry-After"]) <= 10
        assert client.get("/health").status_code == 200
        entries = json.loads(keys.read_text())
        entries["keys"] = [entry for entry in entries["keys"] if entry["id"] != "ward"]
        keys.write_text(json.dumps(entries))
        assert service.keys is not None
        service.keys.refresh()
        assert ask(ward).status_code == 401
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["key"], line["tasks"], line["outcome"]) for line in lines] == [
        ("ward", ["entities"], "answered"),
        ("slow", ["entities"], "answered"),
    ]
    secret = bytes.fromhex((tmp_path / "audit.jsonl.secret").read_text())
    assert lines[0]["inputs"] == [hmac.new(secret, b"a note", hashlib.sha256).hexdigest()]


def test_no_route_of_the_api_is_open_where_keys_are_asked_for(backbone: Backbone, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    create_key(keys, "ward")
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    with TestClient(create_app(service_on(folder, backbone=backbone, keys=keys))) as client:
        routes = [
            (path, method) for path, known in client.get("/openapi.json").json()["paths"].items() for method in known
        ]
        answers = {(path, method): client.request(method, path.replace("{", "").replace("}", "")).status_code
                   for path, method in routes}  # fmt: skip
    opened = {path for (path, _), status in answers.items() if status != 401}
    assert opened == {"/health", "/ready"} and len(answers) > 10


def test_foreign_hosts_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    """A page on the internet whose name was pointed at this machine must not reach a server without keys."""
    folder = folder_of_tasks(tmp_path, backbone, ("entities",))
    settings = ServerSettings(hosts=("localhost", "127.0.0.1"))
    with TestClient(create_app(service_on(folder, settings, backbone=backbone))) as client:
        assert client.get("/v1/tasks", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/v1/tasks", headers={"Host": "localhost:8000"}).status_code == 200


def test_a_request_larger_than_the_queue_is_told_so_even_when_nobody_else_asks(
    backbone: Backbone, tmp_path: Path
) -> None:
    folder = folder_of_tasks(tmp_path, backbone, ("summary",))
    service = service_on(folder, ServerSettings(queue=4), backbone=backbone, limits=BatchLimits(waiting=4))
    with TestClient(create_app(service)) as client:
        for count, status in ((30, 413), (5, 413), (4, 200)):
            found = client.post("/v1/tasks/summary/predict", json={"documents": ["x"] * count})
            assert found.status_code == status and ("--max-queue" in found.text) == (status == 413)
        raw = {"model": "summary", "prompt": ["x"] * 5, "max_tokens": 2}
        assert client.post("/v1/completions", json=raw).status_code == 413
        assert client.post("/v1/completions", json=raw | {"stream": True}).status_code == 413
        assert service.admission.held == 0
        assert 'refused_total{reason="queue"} 4.0' in client.get("/metrics").text
