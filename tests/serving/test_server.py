"""A real uvicorn on loopback: clients that leave, full queues, tasks that come and go under load, shutdown."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from clinprompt.errors import ClinpromptError
from clinprompt.prompts.artifact import save_task
from clinprompt.serving.batching import BatchLimits
from clinprompt.serving.running import Address, ServeError, bound, require_safe
from clinprompt.serving.settings import ServerSettings
from tests.models import tiny
from tests.serving.taskfiles import task_file
from tests.serving.test_transformers_engine import endless_model
from tests.serving.world import folder_of_tasks, running, service_on, wait_until

PREDICT = "/v1/tasks/summary/predict"


def idle(service: Any) -> bool:
    load = service.engine.load()
    return load.running + load.waiting + service.admission.held == 0


def test_clients_that_leave_free_their_slots(tmp_path: Path) -> None:
    backbone = endless_model()
    folder = folder_of_tasks(tmp_path, backbone, ("summary",))
    long = {"model": "tiny-llama", "prompt": "x", "max_tokens": 1900}
    with running(service_on(folder, backbone=backbone, limits=BatchLimits(rows=2))) as server:
        with server.client() as client:
            with client.stream("POST", "/v1/completions", json=long | {"stream": True}) as stream:
                lines = stream.iter_lines()  # kept: an iterator that is dropped hangs up
                assert next(lines).startswith("data: ")
                assert server.service.engine.load().running == 1
            wait_until(lambda: idle(server.service))
        for _ in range(3):
            with pytest.raises(httpx.TimeoutException), httpx.Client(base_url=server.url, timeout=0.3) as client:
                client.post("/v1/completions", json=long)
        wait_until(lambda: idle(server.service))
        assert server.service.engine.load().tokens_written < 4 * 1900


def test_a_full_queue_answers_429_and_serves_again(tmp_path: Path) -> None:
    backbone = endless_model()
    folder = folder_of_tasks(tmp_path, backbone, ("summary",))
    service = service_on(folder, ServerSettings(queue=2), backbone=backbone, limits=BatchLimits(rows=1))
    with running(service) as server, ThreadPoolExecutor(12) as pool:

        def ask(_: int) -> httpx.Response:
            with server.client() as client:
                return client.post("/v1/completions", json={"model": "tiny-llama", "prompt": "x", "max_tokens": 150})

        found = list(pool.map(ask, range(12)))
        statuses = {one.status_code for one in found}
        assert statuses == {200, 429}
        assert all(int(one.headers["Retry-After"]) >= 1 for one in found if one.status_code == 429)
        wait_until(lambda: idle(service))
        assert ask(0).status_code == 200


def test_tasks_come_and_go_under_load_without_a_dropped_request(tmp_path: Path) -> None:
    backbone = tiny("llama", bos=True)
    folder = folder_of_tasks(tmp_path, backbone, ("summary", "drugs"))
    service = service_on(folder, ServerSettings(watch_seconds=0.05), backbone=backbone)
    statuses: list[int] = []
    stop = threading.Event()
    with running(service) as server:

        def ask() -> None:
            with server.client() as client:
                while not stop.is_set():
                    statuses.append(
                        client.post("/v1/tasks/summary,drugs/predict", json={"documents": ["x"]}).status_code
                    )

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        with server.client() as client:
            for seed in range(3):
                save_task(task_file(backbone, "new", "summarization", seed=seed), folder / "new.safetensors")
                save_task(task_file(backbone, "drugs", "ner", seed=seed, labels=["Drug"]), folder / "drugs.safetensors")
                wait_until(lambda: client.get("/v1/tasks/new").status_code == 200)
                assert client.post("/v1/tasks/new/predict", json={"documents": ["x"]}).status_code == 200
                (folder / "new.safetensors").unlink()
                wait_until(lambda: client.get("/v1/tasks/new").status_code == 404)
        stop.set()
        for asker in askers:
            asker.join()
    assert len(statuses) > 3 and set(statuses) == {200}


def test_shutdown_finishes_what_was_accepted(tmp_path: Path) -> None:
    backbone = endless_model()
    folder = folder_of_tasks(tmp_path, backbone, ("summary",))
    service = service_on(folder, backbone=backbone, limits=BatchLimits(rows=2))
    with running(service) as server, ThreadPoolExecutor(4) as pool:

        def ask(_: int) -> httpx.Response:
            with server.client() as client:
                return client.post("/v1/completions", json={"model": "tiny-llama", "prompt": "x", "max_tokens": 120})

        going = [pool.submit(ask, i) for i in range(4)]
        wait_until(lambda: service.admission.held == 4)
        server.stop()
        assert [one.result().status_code for one in going] == [200] * 4
        assert all(one.result().json()["choices"][0]["finish_reason"] == "length" for one in going)
        with pytest.raises(httpx.TransportError), server.client() as client:
            client.get("/health")


def test_the_openai_client(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai", reason="the openai client is not installed (extra: dev)")
    backbone = tiny("llama", bos=True)
    folder = folder_of_tasks(tmp_path, backbone)
    with running(service_on(folder, backbone=backbone)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
        assert {"summary", "entities", "tiny-llama"} <= {model.id for model in client.models.list()}
        assert client.models.retrieve("summary").owned_by == "clinprompt"
        messages = [{"role": "user", "content": "She took aspirin and has gout."}]
        whole = client.chat.completions.create(model="summary", messages=messages, logprobs=True)
        said = whole.choices[0].message.content
        assert said and whole.usage.completion_tokens == len(whole.choices[0].logprobs.content)
        stream = client.chat.completions.create(
            model="summary", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        structured = client.chat.completions.create(
            model="entities", messages=messages, response_format={"type": "json_object"}
        )
        with server.client() as plain:
            sent = {"documents": [messages[0]["content"]]}
            [direct] = plain.post("/v1/tasks/entities/predict", json=sent).json()["answers"]
            [offline] = plain.post(PREDICT, json=sent).json()["answers"]
        assert json.loads(structured.choices[0].message.content) == direct and offline["summary"] == said
        follows = json.dumps({"text": "She has gout.", "hypothesis": "She is ill."})
        label = client.chat.completions.create(model="follows", messages=[{"role": "user", "content": follows}])
        assert label.choices[0].message.content in ("yes", "no", "perhaps")
        raw = client.completions.create(model="tiny-llama", prompt=["a", "b"], max_tokens=5, logprobs=1)
        parts = client.completions.create(model="tiny-llama", prompt=["a", "b"], max_tokens=5, stream=True)
        joined = ["", ""]
        for part in parts:
            joined[part.choices[0].index] += part.choices[0].text
        assert [choice.text for choice in raw.choices] == joined
        assert len(raw.choices[0].logprobs.token_logprobs) == 5
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="nobody", prompt="x")
        with pytest.raises(openai.UnprocessableEntityError):
            client.chat.completions.create(model="summary", messages=messages, n=2)


@pytest.mark.parametrize(
    ("address", "keys", "insecure", "message"),
    [
        (Address("0.0.0.0"), False, True, "--api-keys"),
        (Address("0.0.0.0"), True, False, "in the clear"),
        (Address("example.org"), False, False, "--api-keys"),
        (Address(tls_cert=Path("cert.pem")), True, False, "belong together"),
        (Address(tls_cert=Path("no.pem"), tls_key=Path("no.pem")), True, False, "no such file"),
    ],
)
def test_unsafe_addresses_are_refused(address: Address, keys: bool, insecure: bool, message: str) -> None:
    with pytest.raises(ServeError, match=message):
        require_safe(address, keys=keys, insecure=insecure)


def test_safe_addresses_are_not(tmp_path: Path) -> None:
    for address in (Address(), Address("::1"), Address("localhost")):
        require_safe(address, keys=False, insecure=False)
    require_safe(Address("0.0.0.0"), keys=True, insecure=True)
    taken = bound(Address(port=0))
    taken.listen()
    with pytest.raises(ClinpromptError, match="cannot be listened on"):
        bound(Address(port=taken.getsockname()[1]))
    taken.close()
