"""The engine in process: equal to offline prediction in every mix; streams, stops, cancellation, closing, failures."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from torch import Tensor

from clinprompt.backbone.model import Backbone
from clinprompt.errors import BackboneError, TaskError
from clinprompt.evaluation.predict import predict_task
from clinprompt.serving import batching
from clinprompt.serving.batching import BatchLimits
from clinprompt.serving.engine import EngineBusy, EngineClosed, EngineFailed, Generated, Question, Sampling, UnknownTask
from clinprompt.serving.predicting import Answer, answer, ask
from clinprompt.serving.rows import Rows
from clinprompt.serving.transformers_engine import TransformersEngine
from tests.models import tiny
from tests.serving.taskfiles import LIMIT, note, task_file, task_files


def with_engine(
    work: Callable[[TransformersEngine], Awaitable[Any]],
    backbone: Backbone | None = None,
    limits: BatchLimits | None = None,
    names: tuple[str, ...] | None = None,
) -> Any:
    """The result of `work` on an engine that holds the test tasks."""
    model = backbone or tiny("llama", bos=True)

    async def run() -> Any:
        engine = TransformersEngine(model, limits)
        try:
            for name, file in task_files(model).items():
                if names is None or name in names:
                    await engine.add(name, file)
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


@pytest.mark.parametrize(("kind", "rows"), [("llama", 1), ("llama", 64), ("gpt_oss", 3)])
def test_any_mix_equals_offline(kind: str, rows: int) -> None:
    backbone = tiny(kind, bos=kind == "llama")
    files = task_files(backbone)
    jobs = [(name, note(number, 1 + 3 * (number == 2))) for number in range(3) for name in files]
    random.Random(rows).shuffle(jobs)

    async def work(engine: TransformersEngine) -> list[Answer]:
        async def one(place: int, name: str, record: Any) -> Answer:
            await asyncio.sleep(0.002 * (place % 5))
            return await answer(engine, await ask(engine, engine.tasks()[name], record))

        return await asyncio.gather(*(one(i, *job) for i, job in enumerate(jobs)))

    found = with_engine(work, backbone, BatchLimits(rows=rows, read_tokens=600))
    for (name, record), got in zip(jobs, found, strict=True):
        offline = predict_task(backbone, files[name], [record])[0]
        assert got.prediction.record == offline.record, name
        assert (got.prediction.ungrounded, got.prediction.malformed) == (offline.ungrounded, offline.malformed)
        assert got.prediction.probabilities == pytest.approx(offline.probabilities, abs=1e-5)
        assert len(got.entities) in (0, len(offline.record.entities)) and len(got.ungrounded) == len(offline.ungrounded)


def test_prompts_are_read_once() -> None:
    backbone = tiny("llama", bos=True)

    async def work(engine: TransformersEngine) -> None:
        for _ in range(3):
            for task in engine.tasks().values():
                await answer(engine, await ask(engine, task, note(1)))

    with_engine(work, backbone)
    assert set(backbone.prefetches.values()) == {1}
    assert len(backbone.prefetches) == sum(f.card.position != "end" for f in task_files(backbone).values())


def test_a_stream_is_the_whole_answer() -> None:
    async def work(engine: TransformersEngine) -> None:
        question = Question(engine.tasks()["summary"], "a text", limit=9)
        pieces = [piece async for piece in engine.generate(question)]
        whole = await engine.answer(question)
        assert tuple(piece.text for piece in pieces) == tuple(piece.text for piece in whole.pieces)
        assert "".join(piece.text for piece in pieces).strip() == whole.text
        assert [piece.logprob for piece in pieces] == pytest.approx([p.logprob for p in whole.pieces], abs=1e-5)
        assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1) and pieces[-1].finish

    with_engine(work)


def test_stop_texts_end_an_answer_and_are_not_part_of_it() -> None:
    async def work(engine: TransformersEngine) -> None:
        whole = await engine.answer(Question(None, "some text", limit=40))
        stop = whole.text[2:4]
        question = Question(None, "some text", limit=40, stop=(stop,))
        cut = await engine.answer(question)
        pieces = [piece async for piece in engine.generate(question)]
        before = whole.text[: whole.text.index(stop)]
        assert cut.text == before.strip() and cut.finish == "stop"
        assert "".join(piece.text for piece in pieces).strip() == cut.text and pieces[-1].finish == "stop"

    with_engine(work)


def test_sampling_repeats_with_its_seed_and_is_greedy_when_cold() -> None:
    async def work(engine: TransformersEngine) -> None:
        async def said(sampling: Sampling) -> str:
            found: Generated = await engine.answer(Question(None, "some text", limit=12, sampling=sampling))
            return found.text

        hot = Sampling(temperature=1.5, seed=3)
        assert await said(hot) == await said(hot)
        assert await said(hot) != await said(Sampling(temperature=1.5, seed=4))
        assert await said(Sampling(temperature=1.0, top_p=1e-6, seed=1)) == await said(Sampling())

    with_engine(work)


def test_cancelling_frees_the_slot() -> None:
    async def work(engine: TransformersEngine) -> None:
        endless = Question(None, "x", limit=1200)
        waiting = [asyncio.create_task(engine.answer(endless)) for _ in range(3)]
        stream = engine.generate(endless)
        await anext(stream)
        assert engine.load().running + engine.load().waiting == 4
        for task in waiting:
            task.cancel()
        await stream.aclose()
        for _ in range(200):
            if engine.load().running + engine.load().waiting == 0:
                break
            await asyncio.sleep(0.01)
        assert (engine.load().running, engine.load().waiting) == (0, 0)
        written = engine.load().tokens_written
        await asyncio.sleep(0.05)
        assert engine.load().tokens_written == written < 4800

    with_engine(work, endless_model(), BatchLimits(rows=2))


def endless_model() -> Backbone:
    """A model that never ends an answer by itself."""
    backbone = tiny("llama")
    inner = backbone.head

    def head(hidden: Any) -> Any:
        logits = inner(hidden).clone()
        logits[:, list(backbone.end_ids)] = -1e9
        return logits

    backbone.head = head
    return backbone


def spied_steps(monkeypatch: pytest.MonkeyPatch, look: Callable[[Rows], None]) -> None:
    """Calls `look` with every batch before each of its steps, in the thread of the model."""
    step = Rows.step

    def seen(rows: Rows, tokens: Sequence[int]) -> Tensor:
        look(rows)
        return step(rows, tokens)

    monkeypatch.setattr(Rows, "step", seen)


def test_a_long_answer_does_not_widen_the_rows_of_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of a batch are as wide as its longest row, so long answers are written apart."""
    monkeypatch.setattr(batching, "SHORT", 64)
    shapes: list[tuple[int, int]] = []
    spied_steps(monkeypatch, lambda rows: shapes.append((len(rows), rows.columns)))

    async def work(engine: TransformersEngine) -> None:
        long = asyncio.create_task(engine.answer(Question(None, "a long one", limit=150)))
        rounds = 0
        while not long.done():
            await asyncio.gather(*(engine.answer(Question(None, f"text {i}", limit=20)) for i in range(3)))
            rounds += 1
        assert rounds > 2

    with_engine(work, endless_model(), names=())
    assert max(columns for _, columns in shapes) > 150
    assert max(columns for rows, columns in shapes if rows > 1) < 40


def test_places_are_counted_as_they_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of places is one of memory: it holds of padded rows, and nobody waits for ever."""
    monkeypatch.setattr(batching, "SHORT", 64)
    held: list[int] = []

    async def work(engine: TransformersEngine) -> None:
        def look(_: Rows) -> None:
            lanes = [lane.active for lane in engine._batcher._lanes.values()]
            held.append(sum(len(lane) * max(ticket.places for ticket in lane) for lane in lanes if lane))

        spied_steps(monkeypatch, look)
        limits = [90, 10, 4, 30, 90, 60, 4, 200, 10, 4]
        questions = [Question(None, "ten places", limit=limit) for limit in limits]
        found = await asyncio.gather(*(engine.answer(question) for question in questions))
        assert [len(one.pieces) for one in found] == limits

    with_engine(work, endless_model(), BatchLimits(tokens=180), names=())
    assert {one for one in held if one > 180} == {210}  # alone, because it does not fit otherwise
    assert max(one for one in held if one <= 180) > 130


def test_nothing_of_an_answered_question_is_left_for_the_collector() -> None:
    """Whether it was answered, cancelled or read as a stream. Keys and values that wait for Python's garbage collection
    would be memory that rises and falls."""

    def tensors() -> int:
        return sum(isinstance(one, Tensor) for one in gc.get_objects())

    async def work(engine: TransformersEngine) -> tuple[int, int]:
        async def some(seed: int) -> None:
            chance = random.Random(seed)
            for number in range(2):
                task = engine.tasks()[chance.choice(sorted(engine.tasks()))]
                asked = await ask(engine, task, note(number, chance.randint(1, 3)))
                going = asyncio.create_task(answer(engine, asked))
                if chance.random() < 0.3:
                    await asyncio.sleep(0.003)
                    going.cancel()
                await asyncio.gather(going, return_exceptions=True)
                async with contextlib.aclosing(engine.generate(Question(task, "some text", limit=9))) as pieces:
                    async for _ in pieces:
                        if chance.random() < 0.2:
                            break

        async def round_of_questions() -> int:
            await asyncio.gather(*(some(seed) for seed in range(5)))
            while engine.load().running or engine.load().waiting:
                await asyncio.sleep(0.001)
            await engine._in_model(lambda: None)  # the pass that ended the last one is over
            return tensors()

        await round_of_questions()  # what libraries keep for themselves is there then
        gc.collect()
        gc.disable()
        try:
            return tensors(), await round_of_questions()
        finally:
            gc.enable()

    before, after = with_engine(work)
    assert after == before


def test_closing_answers_what_was_accepted() -> None:
    async def work(engine: TransformersEngine) -> None:
        going = [asyncio.create_task(engine.answer(Question(None, f"text {i}", limit=60))) for i in range(12)]
        while not engine.load().running:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(engine.close())
        answers = await asyncio.gather(*going, return_exceptions=True)
        await closing
        answered = [one for one in answers if isinstance(one, Generated)]
        assert answered and all(isinstance(one, Generated | EngineClosed) for one in answers)
        with pytest.raises(EngineClosed):
            await engine.answer(Question(None, "late"))

    with_engine(work, endless_model(), BatchLimits(rows=2), names=())


def test_a_full_queue_says_so() -> None:
    async def work(engine: TransformersEngine) -> None:
        going = [asyncio.create_task(engine.answer(Question(None, "x", limit=60))) for _ in range(8)]
        found = await asyncio.gather(*going, return_exceptions=True)
        assert sum(isinstance(one, EngineBusy) for one in found) >= 1
        assert all(isinstance(one, EngineBusy | Generated) for one in found)

    with_engine(work, endless_model(), BatchLimits(rows=1, waiting=2), names=())


def test_a_failure_is_told_and_does_not_stay() -> None:
    backbone = tiny("llama")
    inner, broken = backbone.head, [True]

    def head(hidden: Any) -> Any:
        if broken[0]:
            raise RuntimeError("the secret note")
        return inner(hidden)

    backbone.head = head

    async def work(engine: TransformersEngine) -> None:
        with pytest.raises(EngineFailed) as caught:
            await engine.answer(Question(None, "x"))
        assert "secret" not in str(caught.value) and "RuntimeError" in str(caught.value)
        broken[0] = False
        assert isinstance(await engine.answer(Question(None, "x")), Generated)

    with_engine(work, backbone, names=())


def test_a_task_that_is_replaced_or_removed_answers_what_was_asked_of_it() -> None:
    backbone = tiny("llama", bos=True)

    async def work(engine: TransformersEngine) -> None:
        old = engine.tasks()["summary"]
        question = Question(old, "a text", limit=9)
        before = await engine.answer(question)
        await engine.add("summary", task_file(backbone, "summary", "summarization", seed=99))
        assert (await engine.answer(question)).text == before.text
        assert (await engine.answer(Question(engine.tasks()["summary"], "a text", limit=9))).text != before.text
        await engine.remove("summary")
        assert "summary" not in engine.tasks() and (await engine.answer(question)).text == before.text
        with pytest.raises(UnknownTask):
            await engine.remove("summary")

    with_engine(work, backbone)


def test_what_cannot_be_served_is_refused_with_a_reason() -> None:
    with pytest.raises(BackboneError, match="encoder-decoder"):
        TransformersEngine(tiny("t5"))

    async def work(engine: TransformersEngine) -> None:
        with pytest.raises(BackboneError, match="made for backbone"):
            await engine.add("other", task_file(tiny("llama", seed=5), "other", "summarization"))
        with pytest.raises(TaskError, match="leaves no room"):
            await engine.answer(Question(None, "x" * 2100))
        assert "other" not in engine.tasks()

    with_engine(work, names=())


def test_constrained_entities_stand_in_the_text() -> None:
    async def work(engine: TransformersEngine) -> None:
        for name in ("entities", "drugs"):
            for number in range(4):
                asked = await ask(engine, engine.tasks()[name], note(number))
                found = await answer(engine, asked, constrained=True)
                # Only the last item may be unusable: it may be cut off at the limit.
                assert len(found.prediction.malformed) + len(found.prediction.ungrounded) <= 1
                assert found.prediction.record.entities or found.written == LIMIT

    with_engine(work)
