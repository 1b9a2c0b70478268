"""Adapters beside soft prompts in the engine in process: every answer is the offline one, in any mix."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from clinprompt.adapters.lora import lora_bank
from clinprompt.adapters.mixed import Inside, can_mix, mixed
from clinprompt.backbone.model import Backbone, twin
from clinprompt.errors import ArtifactError, BackboneError
from clinprompt.evaluation.answer_line import answer_line
from clinprompt.evaluation.predict import predict_task
from clinprompt.prompts.artifact import TaskPrompt, save_task
from clinprompt.prompts.multitask import load_multitask, save_multitask
from clinprompt.records import Record
from clinprompt.serving.app import create_app
from clinprompt.serving.batching import BatchLimits
from clinprompt.serving.predicting import Answer, answer, ask
from clinprompt.serving.settings import ServerSettings
from clinprompt.serving.transformers_engine import TransformersEngine
from clinprompt.training.multitask_banks import MULTITASK_METHODS
from tests.models import tiny
from tests.serving.adapterfiles import adapter_file, several, shaken
from tests.serving.taskfiles import note, task_files
from tests.serving.world import folder_of_tasks, service_on

Job = tuple[str, Record]


def adapters(backbone: Backbone) -> dict[str, TaskPrompt]:
    """Several at once, of different ranks and layers, and some alike."""
    return {
        "lora": adapter_file(backbone, "lora", "find", 1, rank=4),
        "lora-2": adapter_file(backbone, "lora", "infer", 2, rank=2, alpha=8.0, targets=["q_proj", "v_proj"]),
        "lora-3": adapter_file(backbone, "lora", "sum", 3, rank=3),
        "prefix": adapter_file(backbone, "prefix", "find", 4),
        "both": adapter_file(backbone, "lora+prefix", "infer", 5, rank=2),
        "peml": adapter_file(backbone, "peml", "sum", 6, rank=2),
    }


def answered(
    backbone: Backbone, files: Mapping[str, TaskPrompt], jobs: Sequence[Job], limits: BatchLimits | None = None
) -> list[Answer]:
    """All jobs at once, come in little by little."""

    async def run() -> list[Answer]:
        engine = TransformersEngine(backbone, limits)

        async def one(place: int, name: str, record: Record) -> Answer:
            await asyncio.sleep(0.002 * (place % 5))
            return await answer(engine, await ask(engine, engine.tasks()[name], record))

        try:
            for name, file in files.items():
                await engine.add(name, file)
            return await asyncio.gather(*(one(place, *job) for place, job in enumerate(jobs)))
        finally:
            await engine.close()

    return asyncio.run(run())


def require_offline(
    backbone: Backbone, files: Mapping[str, TaskPrompt], jobs: Sequence[Job], found: Sequence[Answer]
) -> None:
    for (name, record), got in zip(jobs, found, strict=True):
        offline = predict_task(backbone, files[name], [record])[0]
        assert got.prediction.record == offline.record, name
        assert (got.prediction.ungrounded, got.prediction.malformed) == (offline.ungrounded, offline.malformed)
        assert got.prediction.probabilities == pytest.approx(offline.probabilities, abs=1e-5)


def shuffled(names: Sequence[str], seed: int) -> list[Job]:
    jobs = [(name, note(number, 1 + 3 * (number == 2))) for number in range(3) for name in names]
    random.Random(seed).shuffle(jobs)
    return jobs


@pytest.mark.parametrize(("kind", "rows"), [("llama", 1), ("llama", 64), ("gpt_oss", 64)])
def test_adapters_and_prompts_in_any_mix_equal_offline(kind: str, rows: int) -> None:
    backbone = tiny(kind, bos=kind == "llama")
    files = task_files(backbone) | adapters(backbone)
    jobs = shuffled(list(files), rows)
    found = answered(backbone, files, jobs, BatchLimits(rows=rows, read_tokens=600))
    require_offline(backbone, files, jobs, found)
    assert len({str(got.prediction) for got in found}) > len(jobs) // 2  # the adapters do say different things


DIFFERENT = ("lora", "mixlora", "mtl-lora", "peml")  # one shared row, a block replaced, slices per task, a prefix too


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in DIFFERENT else pytest.mark.slow) for m in sorted(MULTITASK_METHODS)]
)
def test_tasks_of_one_adapter_equal_offline(method: str, tmp_path: Path) -> None:
    backbone = tiny("llama", bos=True)
    save_multitask(several(backbone, method, 3), tmp_path / "m.safetensors")
    adapter = load_multitask(tmp_path / "m.safetensors")
    files = {name: adapter.of(name) for name in adapter.names} | {"prompt": task_files(backbone)["summary"]}
    jobs = shuffled(list(files), 1)
    require_offline(backbone, files, jobs, answered(backbone, files, jobs))


def test_a_mixture_of_experts_takes_a_family_adapter() -> None:
    backbone = tiny("gpt_oss")
    adapter = several(backbone, "mtl-lora", 3)
    files: dict[str, TaskPrompt] = {name: adapter.of(name) for name in ("find", "infer")}
    files["prompt"] = task_files(backbone)["entities"]
    jobs = shuffled(list(files), 2)
    require_offline(backbone, files, jobs, answered(backbone, files, jobs))


def test_lora_of_several_tasks_shares_the_pass_of_the_prompts() -> None:
    """As many passes as without adapters, not one per adapter."""
    backbone = tiny("llama", bos=True)

    async def passes(files: Mapping[str, TaskPrompt]) -> int:
        engine = TransformersEngine(backbone, BatchLimits(wait_seconds=0.5, rows=len(files)))
        try:
            for name, file in files.items():
                await engine.add(name, file)
            asked = [await ask(engine, engine.tasks()[name], note(1)) for name in files]
            await asyncio.gather(*(answer(engine, one) for one in asked))
            return engine.load().passes
        finally:
            await engine.close()

    free = {name: file for name, file in adapters(backbone).items() if file.task.type == "ner"}
    free |= {f"{name}-{seed}": adapter_file(backbone, "lora", "find", seed) for name in free for seed in range(4)}
    longest = asyncio.run(passes({"one": free["lora"]}))
    assert asyncio.run(passes(free)) <= 15 + 1 and longest <= 15  # LIMIT steps, and the reading


def test_what_is_added_to_each_example_is_its_own_adapters() -> None:
    """Against each example alone through LoRA's own bank."""
    backbone = tiny("llama")
    banks = [shaken(lora_bank(backbone, [seed], rank=2 + seed), seed) for seed in range(3)]
    each = [Inside(banks[0], 0, True), None, Inside(banks[2], 0, True), Inside(banks[0], 0, True)]
    ids = torch.arange(20).view(4, 5) + 5
    with torch.inference_mode():
        with mixed(backbone, each):
            together = backbone.model(ids).logits
        for place, one in enumerate(each):
            if one is None:
                alone = backbone.model(ids[place : place + 1]).logits
            else:
                with one.bank.inside(backbone, [0], None):
                    alone = backbone.model(ids[place : place + 1]).logits
            torch.testing.assert_close(together[place : place + 1], alone, atol=1e-4, rtol=1e-4)
    hooks = [hook for module in backbone.model.modules() for hook in module._forward_hooks.values()]
    assert not [hook for hook in hooks if type(hook).__module__.startswith("clinprompt")]


def test_layers_that_see_all_examples_at_once_are_told() -> None:
    class Flat(torch.nn.Linear):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return super().forward(values)

    backbone = tiny("llama")
    bank = lora_bank(backbone, [0], targets=["mlp.gate_proj"])
    assert can_mix(backbone, bank)
    for layer in backbone.model.base_model.layers:
        inner = layer.mlp.forward
        layer.mlp.forward = lambda hidden, inner=inner: inner(hidden.flatten(0, 1)).view_as(hidden)
    assert not can_mix(backbone, bank)


def test_a_twin_has_the_weights_and_none_of_the_hooks() -> None:
    backbone = tiny("llama")
    other = twin(backbone)
    assert all(a is b for a, b in zip(backbone.model.parameters(), other.model.parameters(), strict=True))
    ids = torch.arange(6)[None]
    before = backbone.model(ids).logits
    with shaken(lora_bank(other, [0], rank=2), 0).inside(other, [0], None):
        torch.testing.assert_close(backbone.model(ids).logits, before, atol=0, rtol=0)
        assert not torch.equal(other.model(ids).logits, before)


def test_files_come_and_go_over_http_and_each_task_has_its_name(tmp_path: Path) -> None:
    backbone = tiny("llama", bos=True)
    folder = folder_of_tasks(tmp_path, backbone, ("summary",))
    file = adapter_file(backbone, "peml", "find", 2)
    save_task(file, tmp_path / "peml.safetensors")
    save_multitask(several(backbone, "mtl-lora", 1), folder / "suite.safetensors")
    (folder / "suite.checkpoint.safetensors").write_bytes(b"of a training under way")
    with TestClient(create_app(service_on(folder, ServerSettings(watch_seconds=60), backbone=backbone))) as client:

        def served() -> list[str]:
            found = client.get("/v1/tasks").json()
            assert found["refused"] == []
            return [task["name"] for task in found["tasks"]]

        assert served() == ["suite.find", "suite.infer", "suite.sum", "summary"]
        parts = client.get("/v1/tasks").json()["tasks"][:3]
        assert len({part["digest"] for part in parts}) == 1 and parts[0]["digest"]  # what clients tell versions by
        sent = {"documents": [{"text": note(1).text, "hypothesis": "She has gout."}]}
        both = client.post("/v1/tasks/suite.find,suite.infer,summary/predict", json=sent)
        assert both.status_code == 200 and len(both.json()["answers"]) == 3

        put = client.put("/v1/tasks/fresh", content=(tmp_path / "peml.safetensors").read_bytes())
        assert put.status_code == 200 and (put.json()["method"], put.json()["prompt_tokens"]) == ("peml", 0)
        assert put.json()["parameters"] == sum(tensor.numel() for tensor in file.tensors.values())
        found = client.post("/v1/tasks/fresh/predict", json=sent).json()["answers"][0]
        offline = answer_line(file.task, predict_task(backbone, file, [Record("0", note(1).text)])[0])
        assert [e["spans"] for e in found["entities"]] == [e["spans"] for e in offline["entities"]]
        view = client.get("/v1/tasks/fresh/prompt").json()
        assert view["positions"] == [] and {"part", "norm", "relative"} == set(view["changes"][0])

        again = client.put("/v1/tasks/other", content=client.get("/v1/tasks/suite.sum/file").content)
        assert [task["name"] for task in again.json()["tasks"]] == ["other.find", "other.infer", "other.sum"]
        part = client.delete("/v1/tasks/other.sum")
        assert part.status_code == 422 and "Delete other to remove them all" in part.json()["error"]["message"]
        assert client.delete("/v1/tasks/other").status_code == 204
        assert client.delete("/v1/tasks/other").status_code == 404
        assert client.delete("/v1/tasks/fresh").status_code == 204
        assert client.put("/v1/tasks/suite", content=(tmp_path / "peml.safetensors").read_bytes()).status_code == 200
        assert served() == ["suite", "summary"]


def test_changed_files_and_names_that_two_files_claim(tmp_path: Path) -> None:
    backbone = tiny("llama", bos=True)
    folder = folder_of_tasks(tmp_path, backbone, ("summary",))
    save_multitask(several(backbone, "lora", 1), folder / "a.safetensors")
    save_task(task_files(backbone)["drugs"], folder / "a.sum.safetensors")
    service = service_on(folder, backbone=backbone)

    async def run() -> None:
        library = service.library
        await library.refresh()
        assert set(service.engine.tasks()) == {"a.find", "a.infer", "a.sum", "summary"}
        assert list(library.refused) == ["a.sum"] and "the file a holds a task" in library.refused["a.sum"].reason
        assert library.file_of("a.sum") == folder / "a.safetensors"
        save_task(adapter_file(backbone, "prefix", "find", 1), folder / "a.safetensors")
        (folder / "a.sum.safetensors").touch()
        await library.refresh()
        assert set(service.engine.tasks()) == {"a", "a.sum", "summary"} and not library.refused
        (folder / "a.safetensors").write_bytes(b"broken")
        await library.refresh()
        assert "a" in service.engine.tasks() and list(library.refused) == ["a"]  # what was there goes on
        (folder / "a.safetensors").unlink()
        await library.refresh()
        assert set(service.engine.tasks()) == {"a.sum", "summary"} and not library.refused
        await service.engine.close()

    asyncio.run(run())


def test_all_weights_and_foreign_adapters_are_refused_with_the_cure() -> None:
    backbone = tiny("llama", bos=True)

    async def run() -> None:
        engine = TransformersEngine(backbone)
        try:
            with pytest.raises(ArtifactError, match=r"all weights.*clinprompt predict.*--method lora"):
                await engine.add("full", adapter_file(backbone, "full", "find"))
            with pytest.raises(BackboneError, match="made for backbone"):
                await engine.add("other", adapter_file(tiny("llama", seed=5), "lora", "find"))
            lora = adapter_file(backbone, "lora", "find")
            unfit = TaskPrompt({"x" + name: values for name, values in lora.tensors.items()}, lora.card)
            with pytest.raises(ArtifactError, match="its layers are not those of this model"):
                await engine.add("unfit", unfit)
            assert not engine.tasks()
        finally:
            await engine.close()

    asyncio.run(run())
