"""What a request may come to is known before anything is rendered: pairs grow with the square of the entities."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from clinprompt.records import Entity, Record
from clinprompt.serving.engine import Desk, ServedTask
from clinprompt.serving.predicting import COMPARED, CONCEPTS, ask
from clinprompt.serving.problems import TooLarge
from clinprompt.serving.transformers_engine import TransformersEngine
from clinprompt.tasks.codec import Example
from tests.models import tiny
from tests.serving.taskfiles import task_file

TEXT = "aspirin gout " * 3


class Counted:
    """A codec that notes how often it renders."""

    def __init__(self, codec: Any) -> None:
        self.codec, self.rendered = codec, 0

    def render(self, record: Record) -> list[Example]:
        self.rendered += 1
        return list(self.codec.render(record))

    def parse(self, *given: Any) -> Any:
        return self.codec.parse(*given)


def served(**settings: Any) -> tuple[Any, ServedTask, Counted]:
    """A relation task of a tiny engine, and what it renders."""
    backbone = tiny("llama", bos=True)

    async def made() -> tuple[Any, ServedTask]:
        engine = TransformersEngine(backbone)
        task = await engine.add("treats", task_file(backbone, "treats", "relation", labels=["treats"], **settings))
        await engine.close()
        return engine, task

    engine, task = asyncio.run(made())
    engine._desk = Desk()
    counted = Counted(task.codec)
    return engine, replace(task, codec=counted), counted


def of_entities(count: int, kind: str = "Drug", *concepts: str) -> Record:
    return Record("0", TEXT, tuple(Entity(str(n), kind, ((0, 7),), concepts) for n in range(count)))


def test_pairs_are_counted_before_they_are_rendered() -> None:
    engine, task, counted = served()
    with pytest.raises(TooLarge, match="more questions"):
        asyncio.run(ask(engine, task, of_entities(2_000), most=2_048))
    with pytest.raises(TooLarge, match="more questions"):
        asyncio.run(ask(engine, task, of_entities(4), most=11))
    assert counted.rendered == 0
    assert len(asyncio.run(ask(engine, task, of_entities(4), most=12)).examples) == 12
    assert len(asyncio.run(ask(engine, task, of_entities(5))).examples) == 20


def test_concepts_are_counted_too() -> None:
    engine, task, counted = served(scope="document", arguments=[["A", "B"]])
    many = tuple(Entity(str(n), "Z", ((0, 7),), tuple(f"{n}:{i}" for i in range(32))) for n in range(100))
    with pytest.raises(TooLarge, match=f"{CONCEPTS:,} different concepts"):
        asyncio.run(ask(engine, task, Record("0", TEXT, many), most=2_048))
    engine, task, counted = served(scope="document")
    with pytest.raises(TooLarge, match=f"{COMPARED:,} pairs of mentions"):
        asyncio.run(ask(engine, task, of_entities(1_100, "Drug", "C1", "C2"), most=2_048))
    assert counted.rendered == 0
    assert len(asyncio.run(ask(engine, task, of_entities(20, "Drug", "C1", "C2"), most=2_048)).examples) == 2


def test_windows_beyond_the_limit_are_refused() -> None:
    backbone = tiny("llama", bos=True)

    async def main() -> None:
        engine = TransformersEngine(backbone)
        task = await engine.add("entities", task_file(backbone, "entities", "ner", labels=["Drug"]))
        long = Record("0", "She took aspirin and has gout. " * 40)
        windows = len((await ask(engine, task, long)).examples)
        assert windows > 1 and len((await ask(engine, task, long, most=windows)).examples) == windows
        with pytest.raises(TooLarge, match="more questions"):
            await ask(engine, task, long, most=windows - 1)
        await engine.close()

    asyncio.run(main())
