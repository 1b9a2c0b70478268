"""The folder of tasks: a file that cannot be served, whatever is wrong with it, disturbs nothing else."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from clinprompt.backbone.model import Backbone
from clinprompt.commands.serve import _backbone_of
from clinprompt.errors import BackboneError
from clinprompt.prompts.artifact import TaskPrompt, save_task
from clinprompt.serving.app import create_app
from clinprompt.serving.engine import ServedTask
from clinprompt.serving.keys import create_key
from clinprompt.serving.settings import ServerSettings
from clinprompt.serving.transformers_engine import TransformersEngine
from tests.models import tiny
from tests.serving.taskfiles import task_file
from tests.serving.world import folder_of_tasks, service_on, wait_until

SECRET = "Mrs Zephyrine Quill"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny("llama", bos=True)


def of_another_width(backbone: Backbone, path: Path, *, card_too: bool = False) -> Path:
    """A task file whose prompt is too wide for the backbone that its card names by fingerprint."""
    file, width = task_file(backbone, "wide", "summarization"), backbone.width + 1
    card = file.card
    if card_too:
        card = card.model_copy(update={"backbone": card.backbone.model_copy(update={"width": width})})
    save_task(TaskPrompt({"prompt": torch.ones(3, width)}, card), path)
    return path


def refused(client: TestClient, **options: Any) -> dict[str, str]:
    return {one["name"]: one["reason"] for one in client.get("/v1/tasks", **options).json()["refused"]}


@pytest.mark.parametrize("card_too", [False, True])
def test_a_prompt_of_another_width_is_refused_and_said_so(backbone: Backbone, tmp_path: Path, card_too: bool) -> None:
    folder = folder_of_tasks(tmp_path, backbone, ("summary",))
    wide = of_another_width(backbone, folder / "wide.safetensors", card_too=card_too)
    with TestClient(create_app(service_on(folder, backbone=backbone))) as client:
        assert "width" in refused(client)["wide"]
        put = client.put("/v1/tasks/other", content=wide.read_bytes())
        assert put.status_code == 422 and "width" in put.text
        assert client.post("/v1/tasks/summary/predict", json={"documents": ["x"]}).status_code == 200
        assert not (folder / "other.safetensors").exists()


class Breaking(TransformersEngine):
    """Meets a defect in a task's file."""

    async def add(self, name: str, file: TaskPrompt) -> ServedTask:
        if name.startswith("bad"):
            raise RuntimeError(SECRET)
        return await super().add(name, file)


def test_a_defect_in_one_file_stops_neither_start_nor_watch(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, keys = folder_of_tasks(tmp_path, backbone, ("summary",)), tmp_path / "keys.json"
    options: dict[str, Any] = {
        "headers": {"Authorization": f"Bearer {create_key(keys, 'ops', scopes=('predict', 'manage'))}"}
    }
    content = (folder / "summary.safetensors").read_bytes()
    (folder / "bad.safetensors").write_bytes(content)
    save_file({"a": torch.ones(1)}, folder / "list.safetensors", metadata={"clinprompt": json.dumps([])})
    service = service_on(folder, ServerSettings(watch_seconds=0.02), backbone=backbone, keys=keys)
    service.engine = service.library._engine = Breaking(backbone)
    with caplog.at_level(logging.INFO, "clinprompt.serving"), TestClient(create_app(service)) as client:
        assert "RuntimeError" in refused(client, **options)["bad"] and "list" in refused(client, **options)
        (folder / "bad-2.safetensors").write_bytes(content)
        wait_until(lambda: "bad-2" in refused(client, **options))
        (folder / "more.safetensors").write_bytes(content)
        wait_until(lambda: client.get("/v1/tasks/more", **options).status_code == 200)
        put = client.put("/v1/tasks/bad-3", content=content, **options)
        assert put.status_code == 422 and "RuntimeError" in put.text
        over = client.put("/v1/tasks/list", content=content, **options)
        assert over.status_code == 200
        keys.write_text(json.dumps({"keys": []}))
        wait_until(lambda: client.get("/v1/tasks", **options).status_code == 401)
    assert SECRET not in put.text + caplog.text and "bad.safetensors met a defect" in caplog.text


def test_a_key_is_revoked_while_the_folder_cannot_be_looked_at(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, keys = folder_of_tasks(tmp_path, backbone, ("summary",)), tmp_path / "keys.json"
    options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {create_key(keys, 'ward')}"}}
    service = service_on(folder, ServerSettings(watch_seconds=0.02), backbone=backbone, keys=keys)

    async def defect() -> None:
        raise RuntimeError(SECRET)

    with TestClient(create_app(service)) as client:
        monkeypatch.setattr(service.library, "refresh", defect)
        assert client.get("/v1/tasks", **options).status_code == 200
        time.sleep(0.1)
        keys.write_text(json.dumps({"keys": []}))
        wait_until(lambda: client.get("/v1/tasks", **options).status_code == 401)
    assert "looking for changes: RuntimeError" in caplog.text and SECRET not in caplog.text


def test_the_backbone_is_that_of_the_readable_files(backbone: Backbone, tmp_path: Path) -> None:
    assert _backbone_of(tmp_path) == "embedded"
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert _backbone_of(tmp_path) == "embedded"
    save_task(task_file(backbone, "one", "summarization"), tmp_path / "one.safetensors")
    assert _backbone_of(tmp_path) == backbone.name
    other = task_file(backbone, "two", "summarization")
    note = other.card.backbone.model_copy(update={"name": "another"})
    card = other.card.model_copy(update={"backbone": note})
    save_task(TaskPrompt(other.tensors, card), tmp_path / "two.safetensors")
    with pytest.raises(BackboneError, match="several backbones"):
        _backbone_of(tmp_path)
