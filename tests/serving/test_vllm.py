"""Real vLLM with a baked model: token for token the soft prompt, its prefix cache hit by the task's tokens.

Needs an environment with vLLM: `make test-vllm` makes one and runs these tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi.testclient import TestClient

from clinprompt.backbone.encoding import encode
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.corpora.sample.suite import SampleTask, sample_suite
from clinprompt.evaluation.answerer import of_task
from clinprompt.evaluation.decoding import Decoder
from clinprompt.prompts.artifact import TaskPrompt, load_task, save_task
from clinprompt.serving import bake as baking
from clinprompt.serving.app import create_app
from clinprompt.serving.baked import open_baked
from clinprompt.serving.engine import Question, Sampling
from clinprompt.serving.predicting import answer, ask
from clinprompt.serving.service import Service
from clinprompt.serving.transformers_engine import TransformersEngine
from clinprompt.serving.vllm_engine import VllmEngine, connect
from clinprompt.serving.vllm_server import PYTHON_VARIABLE, VllmServer, free_port, start
from clinprompt.tasks.definition import TaskDefinition
from tests.serving.taskfiles import packaged_tasks
from tests.serving.world import wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
HITS, QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
LONG = 64  # tokens of a prompt that fills two blocks of the cache


@dataclass
class World:
    backbone: Backbone
    server: VllmServer
    folder: Path
    files: dict[str, TaskPrompt]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Ten tasks of the packaged metaprompt, and one with a longer prompt, on one server."""
    if not os.environ.get(PYTHON_VARIABLE):
        pytest.skip(f"needs vLLM in an environment of its own: run `make test-vllm` (or set {PYTHON_VARIABLE})")
    place = tmp_path_factory.mktemp("vllm")
    backbone = load_backbone("embedded")
    files = packaged_tasks(backbone)
    names = list(files)
    table = backbone.model.get_input_embeddings().weight
    rows = torch.randint(100, len(table), (LONG,), generator=torch.Generator().manual_seed(0))
    files["long"] = TaskPrompt({"prompt": table[rows].clone()}, files[names[0]].card)
    for name, file in files.items():
        files[name] = save_task(file, place / f"{name}.safetensors")
    chosen = [*names[:10], "long"]
    baking.bake([place / f"{name}.safetensors" for name in chosen], place / "model", backbone="embedded")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    server = start(
        place / "model", extra=("--enforce-eager", "--max-num-seqs", "64"), log=place / "vllm.log", seconds=1500
    )
    try:
        yield World(backbone, server, place / "model", {name: files[name] for name in [*chosen, names[10]]})
    finally:
        server.stop()


@cache
def synthetic() -> list[SampleTask]:
    return sample_suite(train=8, validation=4, test=4)


def definition(data: SampleTask) -> TaskDefinition:
    return TaskDefinition.model_validate(data.definition)


def notes(count: int) -> list[str]:
    """Synthetic notes, short enough for an answer to follow."""
    return [data.splits["test"][0].text[:400] for data in synthetic()[:count]]


async def opened(world: World) -> VllmEngine:
    return await connect(world.folder, world.server.url, reloads=True)


def soft(world: World, name: str, source: str, limit: int) -> list[int]:
    file = load_task(world.folder.parent / f"{name}.safetensors")
    decoder = Decoder(world.backbone, file.prompt[None], file.card.position)
    return decoder._generate_chunk(encode(world.backbone, [source], None, file.card.position), [0], limit)[0]


def test_ten_tasks_in_one_mixed_batch_are_token_for_token_the_soft_prompts(world: World) -> None:
    async def main() -> None:
        engine, baked = await opened(world), open_baked(world.folder)
        names = [name for name in baked.manifest.names if name != "long"]
        assert len(names) == 10
        # With the cue an answer is short, without it the text goes on.
        cues = ("\nAnswer:", "")
        asked = [(name, f"Text: {note}{cues[i % 2]}") for i, note in enumerate(notes(4)) for name in names]
        common = {"model": engine._served, "add_special_tokens": False, "max_tokens": 24, "temperature": 0}
        said = await asyncio.gather(
            *(engine.client.complete(common | {"prompt": baked.ids(name, source)}) for name, source in asked)
        )
        answers = set()
        for (name, source), found in zip(asked, said, strict=True):
            ids = found.ids[:-1] if found.finish == "stop" else found.ids
            assert ids == soft(world, name, source, 24)
            answers.add(tuple(ids))
        assert len(answers) >= 4 and sum(map(len, answers)) >= 60  # worth comparing
        text = await engine.client.complete(common | {"prompt": baked.prompt(*asked[0]), "add_special_tokens": True})
        assert text.ids == said[0].ids  # the same request as text
        await engine.close()

    asyncio.run(main())


def test_predictions_are_those_of_the_offline_path(world: World) -> None:
    async def main() -> None:
        engine = await opened(world)
        by_type = {task.type: (task, data) for data in synthetic() if (task := definition(data))}
        compared = 0
        for name, file in world.files.items():
            if file.task.type not in by_type or name not in open_baked(world.folder).manifest.names:
                continue
            defined, data = by_type[file.task.type]
            who = of_task(world.backbone, file, defined)
            card = file.card.model_copy(update={"tasks": (defined,)})
            task = await engine.add(name, TaskPrompt(file.tensors, card))
            records = data.splits["test"][:2]
            for record, offline in zip(records, who.answers(records), strict=True):
                served = (await answer(engine, await ask(engine, task, record))).prediction
                assert served.record == offline.record and served.ungrounded == offline.ungrounded
                assert dict(served.probabilities) == pytest.approx(dict(offline.probabilities), abs=1e-3)
                compared += 1
        assert compared >= 10
        await engine.close()

    asyncio.run(main())


def test_the_prefix_cache_is_hit_by_the_tokens_of_the_task(world: World) -> None:
    """Two requests that share nothing but the prompt's 64 tokens: the second reads them from the cache."""

    async def main() -> None:
        engine = await opened(world)
        task = await engine.add("long", world.files["long"])
        await engine.answer(Question(task, "First words of one note, on gout.", limit=2))
        before = await engine.client.metric(HITS)
        await engine.answer(Question(task, "Quite another text: no pain at all today.", limit=2))
        assert await engine.client.metric(HITS) - before == LONG
        assert await engine.client.metric(QUERIES) > LONG
        await engine.close()

    asyncio.run(main())


def test_new_tokens_are_not_said_whatever_the_temperature(world: World) -> None:
    async def main() -> None:
        engine, baked = await opened(world), open_baked(world.folder)
        ids, first = baked.ids("long", "Text: a note.\nAnswer:"), baked.manifest.tables.rows
        common = {"model": engine._served, "prompt": ids, "add_special_tokens": False, "max_tokens": 32}
        greedy = await engine.client.complete(common | {"temperature": 0})
        # `top_k: 1` of generation_config.json is the server's default, so even a hot request is answered greedily.
        hot = await engine.client.complete(common | {"temperature": 2.0, "seed": 1})
        assert hot.ids == greedy.ids
        task = await engine.add("long", world.files["long"])
        sampling = Sampling(temperature=2.0, seed=1)
        sampled = await engine.answer(Question(task, "Text: a note.\nAnswer:", limit=64, sampling=sampling))
        assert "<|task" not in sampled.text and len(sampled.pieces) > 5
        open_ = await asyncio.gather(
            *(engine.client.complete(common | {"temperature": 1.0, "top_k": -1, "seed": s}) for s in range(20))
        )
        assert max(max(said.ids) for said in open_) < first
        await engine.close()

    asyncio.run(main())


def test_labels_by_guided_choice(world: World) -> None:
    """A client that knows nothing of us: the engine likens choices by itself, this one lets vLLM hold it to them."""

    async def main() -> None:
        engine, baked = await opened(world), open_baked(world.folder)
        choices = ["yes", "no", "maybe"]
        for name in baked.manifest.names[:4]:
            request = {"model": engine._served, "prompt": baked.ids(name, "Text: gout.\nAnswer:"), "temperature": 0}
            guided = {"add_special_tokens": False, "max_tokens": 8, "structured_outputs": {"choice": choices}}
            said = await engine.client.complete(request | guided)
            assert world.backbone.tokenizer.decode(said.ids, skip_special_tokens=True) in choices
        await engine.close()

    asyncio.run(main())


ASKED = (("bc5cdr", False), ("bc5cdr", True), ("ncbi-disease", True), ("pubmedqa", False))
"""Tasks, and whether their entities are asked for as copies of the text."""
TEXTS = (
    "She has gout; mild headache and takes aspirin 5 mg daily for chest pain.",
    "Aspirin caused gastrointestinal bleeding; stopped warfarin.",
    "Mutations of BRCA1 are associated with breast cancer in families.",
)


def test_the_serve_command_over_vllm_answers_as_in_process(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in {name for name, _ in ASKED}:
        shutil.copyfile(world.folder.parent / f"{name}.safetensors", folder / f"{name}.safetensors")
    documents = [{"text": text, "question": "Is it so?"} for text in TEXTS]
    bodies = [(name, {"constrained": copied, "documents": documents}) for name, copied in ASKED]
    with TestClient(create_app(Service.of_folder(folder, TransformersEngine(world.backbone)))) as client:
        expected = [client.post(f"/v1/tasks/{name}/predict", json=body).json() for name, body in bodies]
    port = free_port()
    command = [sys.executable, "-m", "clinprompt", "serve", "--tasks", str(folder), "--port", str(port), "--no-teach"]
    command += ["--engine", "vllm", "--baked", str(world.folder), "--url", world.server.url, "--timeout", "600"]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: ready(port), 600)
            for (name, body), known in zip(bodies, expected, strict=True):
                address = f"http://127.0.0.1:{port}/v1/tasks/{name}/predict"
                compare(httpx.post(address, json=body, timeout=600).json(), known, sure=not body["constrained"])
        finally:
            process.terminate()
            process.wait(60)
    copied = [
        one
        for (_, body), known in zip(bodies, expected, strict=True)
        if body["constrained"]
        for one in known["answers"]
    ]
    assert any(one["entities"] for one in copied) and not any(one["ungrounded"] for one in copied)


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def compare(found: Any, expected: Any, *, sure: bool = True) -> None:
    """The same answers, numbers within 1e-3. `sure`: confidences too (guided, vLLM knows others)."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - ({"request"} if sure else {"request", "confidence"}):
            compare(found[key], expected[key], sure=sure)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            compare(one, other, sure=sure)
    else:
        assert found == (pytest.approx(expected, abs=1e-3) if isinstance(expected, float) else expected)


def test_a_task_is_added_while_the_server_runs(world: World) -> None:
    async def main() -> None:
        engine = await opened(world)
        (name, file), (known, old) = list(world.files.items())[-1], next(iter(world.files.items()))
        task = await engine.add(known, old)
        before = await engine.answer(Question(task, "Text: She has gout.\nAnswer:", limit=12))
        new = await engine.add(name, file)
        said = await engine.answer(Question(new, "Text: She has gout.\nAnswer:", limit=12))
        expected = world.backbone.tokenizer.decode(
            soft(world, name, "Text: She has gout.\nAnswer:", 12), skip_special_tokens=True
        )
        assert said.text == expected.strip()
        after = await engine.answer(Question(task, "Text: She has gout.\nAnswer:", limit=12))
        assert after.text == before.text
        await engine.close()

    asyncio.run(main())


def test_a_task_replaced_under_load_is_not_read_from_the_cache_of_its_former_rows(world: World) -> None:
    """The third version gets the rows of the first, whose keys and values are cached; answers under way hold blocks."""

    async def main() -> None:
        engine = await opened(world)
        table, source = world.backbone.model.get_input_embeddings().weight, "Text: She has gout.\nAnswer:"
        busy = await engine.add("long", world.files["long"])
        rows = []
        for seed in range(3):
            picked = torch.randint(100, len(table), (LONG,), generator=torch.Generator().manual_seed(100 + seed))
            file = TaskPrompt({"prompt": table[picked].clone()}, world.files["long"].card)
            going = [asyncio.create_task(engine.answer(Question(busy, f"Text: {n}.", limit=200))) for n in range(4)]
            await asyncio.sleep(1)
            new = await engine.add("changing", file)
            said = await engine.answer(Question(new, source, limit=12))
            save_task(file, world.folder.parent / "changing.safetensors")
            expected = world.backbone.tokenizer.decode(soft(world, "changing", source, 12), skip_special_tokens=True)
            assert said.text == expected.strip()
            assert all(one.pieces[-1].finish for one in await asyncio.gather(*going))
            rows.append(open_baked(world.folder).manifest.task("changing").ids)
        assert rows[0] == rows[2] != rows[1]
        await engine.close()

    asyncio.run(main())
