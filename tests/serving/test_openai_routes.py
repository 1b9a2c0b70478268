"""OpenAI's API beyond what its client shows: how streams end and are counted, and what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from clinprompt.backbone.model import Backbone
from clinprompt.serving.app import create_app
from clinprompt.serving.engine import EngineFailed, Piece, Question
from clinprompt.serving.service import Service
from clinprompt.serving.settings import ServerSettings
from clinprompt.serving.transformers_engine import TransformersEngine
from tests.models import tiny
from tests.serving.world import folder_of_tasks, running, wait_until

RAW = {"model": "summary", "prompt": "x", "max_tokens": 4}
CHAT = {"model": "summary", "messages": [{"role": "user", "content": "She has gout."}]}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny("llama", bos=True)


class Breaking(TransformersEngine):
    """Writes a token and then fails, in a way we know or not."""

    error: Exception = EngineFailed("out of memory; ask again.")

    async def generate(self, question: Question) -> AsyncGenerator[Piece, None]:
        yield Piece("a", -0.1)
        raise self.error


@contextmanager
def client_of(engine: TransformersEngine, backbone: Backbone, place: Path, **settings: Any) -> Iterator[TestClient]:
    folder = folder_of_tasks(place, backbone, ("summary", "follows", "entities"))
    service = Service.of_folder(folder, engine, ServerSettings(**settings), audit=place / "audit.jsonl")
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


def data(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def outcomes(place: Path) -> list[str]:
    return [json.loads(line)["outcome"] for line in (place / "audit.jsonl").read_text().splitlines()]


def test_a_stream_that_fails_is_booked_as_failed(backbone: Backbone, tmp_path: Path) -> None:
    engine = Breaking(backbone)
    with client_of(engine, backbone, tmp_path) as client:
        for body, address in ((RAW, "/v1/completions"), (CHAT, "/v1/chat/completions")):
            found = client.post(address, json=body | {"stream": True})
            assert found.status_code == 200 and data(found.text)[-1]["error"]["type"] == "EngineFailed"
        assert 'documents_total{task="summary"}' not in client.get("/metrics").text
        engine.error = ValueError("a note")
        client.post("/v1/completions", json=RAW | {"stream": True})
        metrics = client.get("/metrics").text
        assert "clinprompt_defects_total 1.0" in metrics and "clinprompt_held 0.0" in metrics
    assert outcomes(tmp_path) == ["EngineFailed", "EngineFailed", "ValueError"]


def test_a_stream_that_is_sent_to_its_end_is_booked_as_answered(backbone: Backbone, tmp_path: Path) -> None:
    with client_of(TransformersEngine(backbone), backbone, tmp_path) as client:
        assert data(client.post("/v1/completions", json=RAW | {"stream": True}).text)
        assert 'documents_total{task="summary"} 1.0' in client.get("/metrics").text
    assert outcomes(tmp_path) == ["answered"]


class Slow(TransformersEngine):
    """Takes its time for every question."""

    seconds = 0.2

    async def generate(self, question: Question) -> AsyncGenerator[Piece, None]:
        await asyncio.sleep(self.seconds)
        yield Piece("a", -0.1, "stop")

    async def score(self, question: Question) -> tuple[float, ...]:
        await asyncio.sleep(self.seconds)
        return (-1.0,) * len(question.choices)


def test_a_stream_has_one_deadline_for_all_its_questions(backbone: Backbone, tmp_path: Path) -> None:
    with client_of(Slow(backbone), backbone, tmp_path, seconds=0.7) as client:
        started = time.monotonic()
        found = client.post("/v1/completions", json=RAW | {"prompt": ["x"] * 30, "stream": True})
        assert time.monotonic() - started < 4  # 30 questions take 6 s
        events = data(found.text)
        assert events.pop()["error"]["type"] == "TimedOut" and 1 <= len(events) <= 4
        assert 'refused_total{reason="time"} 1.0' in client.get("/metrics").text
    assert outcomes(tmp_path) == ["TimedOut"]


def test_a_late_choice_ends_a_stream_too(backbone: Backbone, tmp_path: Path) -> None:
    engine = Slow(backbone)
    engine.seconds = 30
    content = json.dumps({"text": "x", "hypothesis": "y"})
    asked = {"model": "follows", "messages": [{"role": "user", "content": content}], "stream": True}
    with client_of(engine, backbone, tmp_path, seconds=0.1) as client:
        assert data(client.post("/v1/chat/completions", json=asked).text)[-1]["error"]["type"] == "TimedOut"
        engine.seconds = 0
        assert data(client.post("/v1/chat/completions", json=asked).text)[1]["choices"][0]["delta"]["content"] == "yes"


class Stuck(TransformersEngine):
    """Never writes a token, and notes when it need not any more."""

    asked = left = False

    async def generate(self, question: Question) -> AsyncGenerator[Piece, None]:
        self.asked = True
        try:
            await asyncio.sleep(3600)
        finally:
            self.left = True
        yield Piece("", 0.0, "stop")


def test_a_client_that_leaves_before_the_first_token_frees_its_place(backbone: Backbone, tmp_path: Path) -> None:
    engine = Stuck(backbone)
    service = Service.of_folder(
        folder_of_tasks(tmp_path, backbone, ("summary",)), engine, audit=tmp_path / "audit.jsonl"
    )
    with running(service) as server:
        with pytest.raises(httpx.TimeoutException), httpx.Client(base_url=server.url, timeout=0.5) as client:
            client.post("/v1/completions", json=RAW | {"stream": True})
        wait_until(lambda: engine.left and service.admission.held == 0, 10)
        assert engine.asked
    assert outcomes(tmp_path) == ["Gone"]


def test_a_stream_tells_the_log_probabilities_of_the_whole_answer(backbone: Backbone, tmp_path: Path) -> None:
    with client_of(TransformersEngine(backbone), backbone, tmp_path) as client:
        raw = RAW | {"prompt": ["x", "She took"], "max_tokens": 8, "logprobs": 1}
        whole = client.post("/v1/completions", json=raw).json()["choices"]
        streamed = [one["choices"][0] for one in data(client.post("/v1/completions", json=raw | {"stream": True}).text)]
        for index, choice in enumerate(whole):
            parts = [one["logprobs"] for one in streamed if one["index"] == index]
            for key in ("tokens", "text_offset"):
                assert [value for part in parts for value in part[key]] == choice["logprobs"][key]
            found = [value for part in parts for value in part["token_logprobs"]]
            assert found == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-4) and len(found) > 1
        follows = {"role": "user", "content": json.dumps({"text": "x", "hypothesis": "y"})}
        for chat in (CHAT, {"model": "follows", "messages": [follows]}):
            asked = chat | {"logprobs": True}
            [choice] = client.post("/v1/chat/completions", json=asked).json()["choices"]
            chunks = data(client.post("/v1/chat/completions", json=asked | {"stream": True}).text)
            parts = [one["choices"][0]["logprobs"] for one in chunks]
            tokens = [token for part in parts if part is not None for token in part["content"]]
            assert [one["token"] for one in tokens] == [one["token"] for one in choice["logprobs"]["content"]]
            assert (
                "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
                == (choice["message"]["content"])
            )


def test_parameters_that_could_do_nothing_are_refused_by_name(backbone: Backbone, tmp_path: Path) -> None:
    closed = {"model": "follows", "messages": [{"role": "user", "content": '{"text": "x", "hypothesis": "y"}'}]}
    structured = CHAT | {"response_format": {"type": "json_object"}}
    without = structured | {"model": "tiny-llama"}
    refused: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (closed, {"temperature": 0.5}),
        (closed, {"stop": ["e"]}),
        (closed, {"max_tokens": 1}),
        (closed, {"max_completion_tokens": 1, "max_tokens": 60}),
        (structured, {"temperature": 1}),
        (structured, {"stop": "e"}),
        (structured, {"max_tokens": 3}),
        (structured, {"max_completion_tokens": 3}),
        (structured, {"logprobs": True}),
        (without, {"response_format": {"type": "json_object"}}),
    ]
    fine: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (closed, {"temperature": 0, "stop": None, "max_tokens": 60, "top_p": 0.5, "seed": 3}),
        (structured, {"temperature": 0, "stop": None, "max_tokens": None, "logprobs": False}),
        (CHAT, {"temperature": 0.5, "stop": "e", "max_tokens": 3, "logprobs": True}),
        (without, {"response_format": {"type": "text"}}),
    ]
    with client_of(TransformersEngine(backbone), backbone, tmp_path) as client:
        for streams in (False, True):
            for base, given in refused:
                found = client.post("/v1/chat/completions", json=base | given | {"stream": streams})
                assert found.status_code == 422, (given, found.text)
                assert found.json()["error"]["message"].startswith(f"{next(iter(given))}: ")
            for base, given in fine:
                found = client.post("/v1/chat/completions", json=base | given | {"stream": streams})
                assert found.status_code == 200 and '"error"' not in found.text, (given, found.text)
