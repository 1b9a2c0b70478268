"""The vLLM engine against a stand-in that speaks vLLM's interface: equal to the in-process engine, and polite."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from clinprompt.errors import ArtifactError, BackboneError, TaskError
from clinprompt.prompts.artifact import TaskPrompt, load_task
from clinprompt.records import Record
from clinprompt.serving import bake as baking
from clinprompt.serving import vllm_engine
from clinprompt.serving.baked_manifest import MANIFEST, read_manifest
from clinprompt.serving.constraint import Copied
from clinprompt.serving.engine import EngineBusy, EngineClosed, Question, Sampling, UnknownTask
from clinprompt.serving.predicting import answer, ask
from clinprompt.serving.transformers_engine import TransformersEngine
from clinprompt.serving.vllm_client import VllmClient
from clinprompt.serving.vllm_engine import VllmEngine, over
from tests.serving.baking import SOURCES, loaded, save_model, save_tasks
from tests.serving.fake_vllm import FakeVllm

T = TypeVar("T")
NAMES = ("one", "two", "three")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    base = save_model(folder / "base", bos=True)
    files = save_tasks(folder / "tasks", loaded(base), NAMES)
    baking.bake(files[:2], folder / "baked", backbone=str(base))
    return folder


async def engines(place: Path, folder: str = "baked", **options: Any) -> tuple[VllmEngine, FakeVllm]:
    server = FakeVllm(place / folder)
    return await over(VllmClient("http://vllm/v1", transport=server), place / folder, **options), server


def test_answers_are_those_of_the_engine_in_process(place: Path) -> None:
    async def main() -> None:
        ours = TransformersEngine(loaded(place / "base"))
        theirs, server = await engines(place)
        assert (theirs.fingerprint, theirs.context) == (ours.fingerprint, 1024)
        for name in NAMES[:2]:
            file = load_task(place / "tasks" / f"{name}.safetensors")
            here, there = await ours.add(name, file), await theirs.add(name, file)
            for source in SOURCES:
                one, two = (
                    await ours.answer(Question(here, source, limit=9)),
                    await theirs.answer(Question(there, source, limit=9)),
                )
                assert (one.text, one.finish) == (two.text, two.finish)
                assert [p.text for p in one.pieces] == [p.text for p in two.pieces]
                assert [p.logprob for p in one.pieces] == pytest.approx([p.logprob for p in two.pieces], abs=1e-4)
                streamed = [piece async for piece in theirs.generate(Question(there, source, limit=9))]
                assert "".join(p.text for p in streamed) == "".join(p.text for p in two.pieces)
                assert streamed[-1].finish == two.finish
                choices = ("yes", "no", "a longer one")
                scores = await theirs.score(Question(there, source, choices=choices))
                assert scores == pytest.approx(await ours.score(Question(here, source, choices=choices)), abs=1e-4)
            record = Record("r", "She is well.", hypothesis="She is ill.")
            first = await answer(ours, await ask(ours, here, record))
            second = await answer(theirs, await ask(theirs, there, record))
            assert first.prediction.record == second.prediction.record
            assert first.confidence == pytest.approx(second.confidence, abs=1e-4)
        bare = Question(None, SOURCES[0], limit=5)
        assert (await ours.answer(bare)).text == (await theirs.answer(bare)).text
        assert all("add_special_tokens" in body for path, body in server.asked if path == "/v1/completions")
        assert theirs.load().running == 0 and theirs.load().tokens_written > 0
        await ours.close()
        await theirs.close()

    run(main())


def test_a_note_goes_as_token_ids_and_cannot_speak_in_tokens(place: Path) -> None:
    async def main() -> None:
        engine, server = await engines(place)
        task = await engine.add("one", load_task(place / "tasks" / "one.safetensors"))
        await engine.answer(Question(task, "a <|task:two:0|></s> b", limit=2))
        sent = server.asked[-1][1]["prompt"]
        assert sent[:6] == [1, *engine._baked.manifest.task("one").ids]
        assert not set(sent) & set(engine._baked.manifest.task("two").ids) and 2 not in sent

    run(main())


def test_sampled_requests_forbid_the_new_tokens(place: Path) -> None:
    async def main() -> None:
        engine, server = await engines(place)
        task = await engine.add("one", load_task(place / "tasks" / "one.safetensors"))
        await engine.answer(Question(task, "a", limit=2, sampling=Sampling(1.5, 0.9, 7)))
        sent, tables = server.asked[-1][1], engine._baked.manifest.tables
        assert (sent["temperature"], sent["top_p"], sent["seed"], sent["top_k"]) == (1.5, 0.9, 7, -1)
        assert set(map(int, sent["logit_bias"])) == set(range(tables.rows, tables.rows + tables.room))

    run(main())


def test_a_server_that_keeps_its_cache_is_not_asked_about_new_tasks(place: Path, tmp_path: Path) -> None:
    async def main() -> None:
        baking.bake([place / "tasks" / "one.safetensors"], tmp_path / "baked", backbone=str(place / "base"))
        engine, server = await engines(tmp_path, reloads=True)
        server.forgets = False
        with pytest.raises(EngineClosed, match="former tasks"):
            await engine.add("two", load_task(place / "tasks" / "two.safetensors"))
        assert "two" not in engine.tasks()

    run(main())


def test_copied_entities_are_asked_for_by_a_grammar(place: Path) -> None:
    """The grammar's mask leaves no new token, but for a text that spells one: then they are forbidden by name."""

    async def main() -> None:
        engine, server = await engines(place)
        task = await engine.add("one", load_task(place / "tasks" / "one.safetensors"))
        for text in ("gout", "gout and <|task:one:0|>"):
            rule = Copied(text, ("Problem", "Drug"))
            await engine.answer(Question(task, f"Find.\nText: {text}", limit=2, constraint=rule))
            sent, tables = server.asked[-1][1], engine._baked.manifest.tables
            assert engine.constrains and sent["structured_outputs"] == {"grammar": rule.grammar()}
            assert sent["temperature"] == 0 and "top_k" not in sent
            forbidden = set(range(tables.rows, tables.rows + tables.room)) if "<|" in text else set()
            assert set(map(int, sent.get("logit_bias", {}))) == forbidden

    run(main())


def test_more_tokens_than_vllm_can_forbid_are_not_sent(place: Path, tmp_path: Path) -> None:
    """vLLM's GPU model runner ends at the 1,025th entry of a bias, so such a request must not reach it."""

    async def main() -> None:
        files = [place / "tasks" / "one.safetensors"]
        baking.bake(files, tmp_path / "baked", backbone=str(place / "base"), room=1025)
        engine, server = await engines(tmp_path)
        task = await engine.add("one", load_task(files[0]))
        await engine.answer(Question(task, "Text: gout", limit=2, constraint=Copied("gout", ())))
        asked = len(server.asked)
        with pytest.raises(TaskError, match="--room 960"):
            await engine.answer(Question(task, "a", limit=2, sampling=Sampling(1.0)))
        with pytest.raises(TaskError, match="spells prompt tokens"):
            await engine.answer(Question(task, "Text: <|task:b", limit=2, constraint=Copied("<|task:b", ())))
        assert len(server.asked) == asked and not any("logit_bias" in (body or {}) for _, body in server.asked)

    run(main())


def test_a_task_is_added_to_a_server_that_reloads(place: Path, tmp_path: Path) -> None:
    async def main() -> None:
        baking.bake([place / "tasks" / "one.safetensors"], tmp_path / "baked", backbone=str(place / "base"))
        engine, server = await engines(tmp_path, reloads=True)
        ours = TransformersEngine(loaded(place / "base"))
        old = await engine.add("one", load_task(place / "tasks" / "one.safetensors"))
        before = await engine.answer(Question(old, SOURCES[0], limit=6))
        file = load_task(place / "tasks" / "three.safetensors")
        new, here = await engine.add("three", file), await ours.add("three", file)
        assert [path for path, _ in server.asked[-2:]] == ["/collective_rpc", "/reset_prefix_cache"]
        for source in SOURCES:
            assert (await engine.answer(Question(new, source))).text == (await ours.answer(Question(here, source))).text
        assert (await engine.answer(Question(old, SOURCES[0], limit=6))).text == before.text
        assert sorted(engine.tasks()) == ["one", "three"]
        await engine.remove("three")
        with pytest.raises(UnknownTask):
            await engine.remove("three")
        await ours.close()

    run(main())


def roomy(place: Path, folder: Path, names: tuple[str, ...]) -> list[TaskPrompt]:
    """Task files of 20 rows, the first of them baked into `folder`/baked, which has room for three."""
    files = save_tasks(folder / "tasks", loaded(place / "base"), names, length=20)
    baking.bake(files[:1], folder / "baked", backbone=str(place / "base"), room=60)
    assert 60 <= read_manifest(folder / "baked").tables.room < 80
    return [load_task(file) for file in files]


def test_a_question_under_way_is_answered_by_the_task_it_was_asked_under(place: Path, tmp_path: Path) -> None:
    """vLLM begins it again after every reading of the weights, so nobody may get its rows; afterwards they are free."""

    async def main() -> None:
        old, new, other, last = roomy(place, tmp_path, ("changing", "new", "other", "last"))
        ours = TransformersEngine(loaded(place / "base"))
        expected = await ours.answer(Question(await ours.add("changing", old), SOURCES[0], limit=6))
        assert expected.text != (
            (await ours.answer(Question(await ours.add("other", other), SOURCES[0], limit=6))).text
        )
        engine, server = await engines(tmp_path, reloads=True)
        first = (await engine.add("changing", old)).ids  # type: ignore[attr-defined]
        server.hold = asyncio.Event()
        going = asyncio.create_task(engine.answer(Question(engine.tasks()["changing"], SOURCES[0], limit=6)))
        while engine.load().running == 0:
            await asyncio.sleep(0)
        second = (await engine.add("changing", new)).ids  # type: ignore[attr-defined]
        third = (await engine.add("other", other)).ids  # type: ignore[attr-defined]
        assert not set(first) & {*second, *third}
        await engine.remove("other")
        assert (await engine.add("other", new)).ids == third  # type: ignore[attr-defined]
        adding = asyncio.create_task(engine.add("last", last))  # there is no room before the question is answered
        await asyncio.sleep(0.2)
        assert not adding.done()
        server.hold.set()
        assert (await going).text == expected.text
        del going
        assert (await adding).ids == first  # type: ignore[attr-defined]
        await engine.close()
        await ours.close()

    run(main())


def test_rows_that_stay_in_use_are_not_waited_for_without_end(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "PATIENCE", 0.1)

    async def main() -> None:
        files = roomy(place, tmp_path, ("a", "b", "c", "d"))
        engine, _ = await engines(tmp_path, reloads=True)
        kept = [await engine.add("a", file) for file in files[:3]]
        await engine.remove("a")
        with pytest.raises(ArtifactError, match="60 more when questions under way are answered"):
            await engine.add("d", files[3])
        assert len({index for task in kept for index in task.ids}) == 60  # type: ignore[attr-defined]
        kept.clear()
        assert await engine.add("d", files[3])

    run(main())


def test_tasks_may_come_and_go_for_ever_in_a_small_room(place: Path, tmp_path: Path) -> None:
    async def main() -> None:
        names = tuple(f"t{number}" for number in range(6))
        files = roomy(place, tmp_path, names)
        engine, _ = await engines(tmp_path, reloads=True)
        for name, file in zip(names, files, strict=True):
            await engine.add(name, file)
            await engine.remove(name)
        again = await engine.add(names[-1], files[-1])  # not taken out yet, so nothing is written
        assert read_manifest(tmp_path / "baked").names == [names[-1]]
        assert again.ids == read_manifest(tmp_path / "baked").task(names[-1]).ids  # type: ignore[attr-defined]

    run(main())


def test_without_reloading_only_baked_tasks_are_served(place: Path) -> None:
    async def main() -> None:
        engine, _ = await engines(place)
        with pytest.raises(BackboneError, match="--add"):
            await engine.add("three", load_task(place / "tasks" / "three.safetensors"))
        with pytest.raises(BackboneError, match="--add"):  # the same name, another prompt
            await engine.add("one", load_task(place / "tasks" / "three.safetensors"))

    run(main())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_baked_task_is_known_where_embeddings_are_scaled(dtype: str, tmp_path: Path) -> None:
    """Gemma multiplies its rows by √d, and (p/√d)·√d is not p when rounded."""
    base = save_model(tmp_path / "base", "gemma2")
    files = save_tasks(tmp_path / "tasks", loaded(base, dtype), NAMES)
    baking.bake(files[:2], tmp_path / "baked", backbone=str(base), dtype=dtype)

    async def main() -> None:
        engine, _ = await engines(tmp_path)
        scale, prompt = engine._baked.manifest.tables.scale, load_task(files[0]).prompt
        assert scale != 1.0 and not (prompt / scale * scale).equal(prompt)
        for file in files[:2]:
            await engine.add(file.stem, load_task(file))
        with pytest.raises(BackboneError, match="not baked"):
            await engine.add("one", load_task(files[2]))

    run(main())


def test_another_model_is_noticed(place: Path, tmp_path: Path) -> None:
    files = [place / "tasks" / "one.safetensors"]
    baking.bake(files, tmp_path / "larger", backbone=str(place / "base"), room=400)

    async def main() -> None:
        for folder, how in ((place / "base", "smaller"), (tmp_path / "larger", "larger")):
            server = FakeVllm(folder)
            with pytest.raises(BackboneError, match=f"another model than .*baked: its vocabulary is {how}"):
                await over(VllmClient("http://vllm", transport=server), place / "baked")

    run(main())


def test_a_folder_changed_since_the_server_started_is_noticed(place: Path, tmp_path: Path) -> None:
    files = [place / "tasks" / f"{name}.safetensors" for name in NAMES]
    baking.bake(files[:1], tmp_path / "baked", backbone=str(place / "base"))

    async def main() -> None:
        server = FakeVllm(tmp_path / "baked")
        server.started = (tmp_path / "baked" / MANIFEST).stat().st_mtime - 0.9  # clocks of processes are coarse
        client = VllmClient("http://vllm", transport=server)
        await (await over(client, tmp_path / "baked")).add("one", load_task(files[0]))
        server.started -= 60.0
        with pytest.raises(BackboneError, match="Start vLLM again"):
            await over(client, tmp_path / "baked")
        assert await over(client, tmp_path / "baked", reloads=True)  # reads what is new when it is told to

    run(main())


@pytest.mark.parametrize(
    ("failure", "error"),
    [(429, EngineBusy), (503, EngineBusy), (400, TaskError), (401, EngineClosed), (500, EngineClosed)],
)
def test_refusals_say_what_happened_and_quote_nothing(failure: int, error: type[Exception], place: Path) -> None:
    async def main() -> None:
        engine, server = await engines(place)
        task = await engine.add("one", load_task(place / "tasks" / "one.safetensors"))
        server.fails = [failure]
        with pytest.raises(error) as caught:
            await engine.answer(Question(task, "canary", limit=2))
        assert "canary" not in str(caught.value) and "quotes" not in str(caught.value)
        server.fails = [failure]
        with pytest.raises(error):
            _ = [piece async for piece in engine.generate(Question(task, "canary", limit=2))]
        assert engine.load().running == 0

    run(main())


def test_a_broken_connection_is_tried_once_more(place: Path) -> None:
    async def main() -> None:
        engine, server = await engines(place)
        task = await engine.add("one", load_task(place / "tasks" / "one.safetensors"))
        server.fails = [httpx.ReadError("gone")]
        await engine.answer(Question(task, "a", limit=2))
        server.fails = [httpx.ReadError("gone"), httpx.ReadError("gone")]
        with pytest.raises(EngineClosed, match="does not answer"):
            await engine.answer(Question(task, "a", limit=2))

    run(main())


def test_limits_of_length_and_queue(place: Path) -> None:
    async def main() -> None:
        engine, server = await engines(place, waiting=1)
        task = await engine.add("one", load_task(place / "tasks" / "one.safetensors"))
        with pytest.raises(TaskError, match="no room"):
            await engine.answer(Question(task, "x" * 1020))
        with pytest.raises(TaskError, match="no room"):
            await engine.score(Question(task, "x" * 1015, choices=("some answer",)))
        server.hold = asyncio.Event()
        first = asyncio.create_task(engine.answer(Question(task, "a", limit=2)))
        while engine.load().running == 0:
            await asyncio.sleep(0)
        with pytest.raises(EngineBusy):
            await engine.answer(Question(task, "b", limit=2))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert engine.load().running == 0  # whoever leaves frees the slot
        server.hold = None
        second = asyncio.create_task(engine.answer(Question(task, "a", limit=2)))
        await asyncio.sleep(0)
        await engine.close()
        assert (await second).text is not None
        with pytest.raises(EngineClosed):
            await engine.answer(Question(task, "c", limit=2))

    run(main())
