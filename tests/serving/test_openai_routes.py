"""OpenAI's API beyond what its client shows: how streams end and are counted, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from clinprompt.backbone.model import Backbone
from clinprompt.serving.app import create_app
from clinprompt.serving.engine import EngineFailed, Piece, Question
from clinprompt.serving.service import Service
from clinprompt.serving.settings import ServerSettings
from clinprompt.serving.transformers_engine import TransformersEngine
from tests.models import tiny
from tests.serving.world import folder_of_tasks

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
