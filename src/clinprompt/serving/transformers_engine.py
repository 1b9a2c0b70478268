"""The engine inside this process: one frozen Transformers model, every task's prompt read once, mixed batches; and
adapters beside the prompts (`clinprompt.serving.loaded`)."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from clinprompt.backbone.encoding import Encoded, encode, target_tokens
from clinprompt.backbone.model import Backbone, twin
from clinprompt.errors import BackboneError, TaskError, unknown_name
from clinprompt.evaluation.answerer import room
from clinprompt.prompts.artifact import TaskPrompt, backbone_note, require_backbone
from clinprompt.serving.batching import Batcher, BatchLimits, Ticket, Written
from clinprompt.serving.detokenizing import Detokenizer, Stopper
from clinprompt.serving.engine import (
    Desk,
    EngineClosed,
    Generated,
    Load,
    Piece,
    Question,
    ServedTask,
    UnknownTask,
)
from clinprompt.serving.loaded import Loaded, adapter_of, adapter_states, prompt_states
from clinprompt.serving.rows import Reading
from clinprompt.training.examples import task_codec

T = TypeVar("T")


class TransformersEngine:
    """An `Engine` in this process, for decoder-only backbones. Its model runs in one thread of its own."""

    def __init__(self, backbone: Backbone, limits: BatchLimits | None = None) -> None:
        if backbone.kind == "seq2seq":
            raise BackboneError(
                f"{backbone.name}: an encoder-decoder model; the server answers with decoder-only models. Use "
                "`clinprompt predict`."
            )
        # Copies of the tokenizer, one per thread: a tokenizer changes its own state with every way of calling it.
        self._backbone = replace(backbone, tokenizer=copy.deepcopy(backbone.tokenizer))
        self._inner = twin(backbone)  # adapters are hung on its layers, and whoever trains beside must not meet them
        self._batcher = Batcher(self._inner, limits or BatchLimits())
        self._tasks: dict[str, Loaded] = {}
        self._desk = Desk()
        self._closed = False
        self._answering, self._idle = 0, asyncio.Event()
        self._idle.set()

    @property
    def model(self) -> str:
        return backbone_note(self._backbone).name  # of a folder only its name

    @property
    def fingerprint(self) -> str:
        return self._backbone.fingerprint

    @property
    def context(self) -> int:
        return self._backbone.context

    @property
    def backbone(self) -> Backbone:
        """The model with the tokenizer of the desk."""
        return self._backbone

    @property
    def desk(self) -> Desk:
        return self._desk

    @property
    def constrains(self) -> bool:
        return True

    def tasks(self) -> Mapping[str, ServedTask]:
        return dict(self._tasks)

    def length(self, text: str) -> int:
        return self._backbone.length(text)

    def load(self) -> Load:
        return self._batcher.load()

    # -- tasks ------------------------------------------------------------------------------------------------------

    async def add(self, name: str, file: TaskPrompt) -> ServedTask:
        """As `Engine.add`: between two steps of the batch its prompt is read, or its adapter tried on the model."""
        task = await self._desk.run(lambda: self._prepared(name, file))
        if task.adapter is None:
            prefix, prompt = await self._in_model(lambda: prompt_states(self._inner, file))
            task = replace(task, prefix=prefix, prompt=prompt)
        else:
            bank, row = task.adapter, task.row
            prefix, inside = await self._in_model(lambda: adapter_states(self._inner, bank, row))
            task = replace(task, prefix=prefix, inside=inside)
        self._tasks[name] = task
        return task

    def _prepared(self, name: str, file: TaskPrompt) -> Loaded:
        require_backbone(file.card, self._backbone, f"task file of {file.task.name!r}")
        found = adapter_of(self._backbone, file, self._tasks.values())
        bank, row = found if found is not None else (None, 0)
        length = bank.length if bank is not None else len(file.prompt)
        reserve, window = room(file.card)
        return Loaded(name, file, task_codec(self._backbone, file.task, length, reserve, window), adapter=bank, row=row)

    async def remove(self, name: str) -> None:
        if name not in self._tasks:
            raise UnknownTask(unknown_name("task", name, sorted(self._tasks)))
        del self._tasks[name]

    # -- questions --------------------------------------------------------------------------------------------------

    async def answer(self, question: Question) -> Generated:
        with self._under_way():
            written: Written = await self._whole(await self._ticket(question))
            return await self._desk.run(lambda: self._generated(question, written))

    async def score(self, question: Question) -> tuple[float, ...]:
        scores: tuple[float, ...] = await self._whole(await self._ticket(question))
        return scores

    async def generate(self, question: Question) -> AsyncGenerator[Piece, None]:
        """As `Engine.generate`; closing the generator takes the question out of the batch before its next step."""
        ticket = await self._ticket(question)
        pieces: asyncio.Queue[Any] = asyncio.Queue()
        ticket.streams, ticket.tell = True, pieces.put_nowait
        self._batcher.submit(ticket)
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish is not None:
                    return
        finally:
            self._batcher.cancel(ticket)

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._batcher.close)
        await self._idle.wait()  # answers are put into words at the desk
        self._desk.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._answering += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def _whole(self, ticket: Ticket) -> Any:
        future = ticket.loop.create_future()

        def tell(result: Any) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        ticket.tell = tell
        self._batcher.submit(ticket)
        try:
            return await future
        finally:
            self._batcher.cancel(ticket)

    async def _ticket(self, question: Question) -> Ticket:
        if self._closed:
            raise EngineClosed("the engine is closing and takes no more questions.")
        reading, choices = await self._desk.run(lambda: self._encoded(question))
        limit = min(question.limit, self.context - reading.length)
        if limit < 1:
            raise TaskError(f"a source of {reading.read} tokens leaves no room for an answer in {self.context} tokens.")
        return Ticket(question, reading, choices, limit, asyncio.get_running_loop(), lambda _: None)

    def _encoded(self, question: Question) -> tuple[Reading, list[list[int]]]:
        task = question.task
        choices = target_tokens(self._backbone, list(question.choices))
        if task is None:
            ids = encode(self._backbone, [question.source], None, "start")[0]
            if not len(ids.ids):
                raise TaskError("there is nothing to read: give at least one character.")
            return Reading(ids), choices
        if not isinstance(task, Loaded):
            raise UnknownTask(f"task {task.name!r} was loaded by another engine.")
        ids = encode(self._backbone, [question.source], None, task.file.card.position)[0]
        if task.prompt is not None:
            return Reading(ids, prompt=task.prompt), choices
        rest = np.ascontiguousarray(ids.ids[task.skipped(ids.insert_at) :])
        return Reading(Encoded(rest, len(rest), 0), task.prefix, inside=task.inside), choices

    def _generated(self, question: Question, written: Written) -> Generated:
        tokenizer = self._backbone.tokenizer
        text: str = tokenizer.decode(list(written.ids), skip_special_tokens=True)
        words, stopper = Detokenizer(tokenizer), Stopper(question.stop)
        told = [stopper.push(words.push(token)) for token in written.ids]
        if told:
            told[-1] += stopper.push(words.rest()) + stopper.rest()
        if question.stop:
            text = "".join(told)
        pieces = [Piece(part, logprob) for part, logprob in zip(told, written.logprobs, strict=False)]
        if len(written.logprobs) > len(pieces):
            pieces.append(Piece("", written.logprobs[-1], written.finish))
        else:
            pieces[-1] = replace(pieces[-1], finish=written.finish)
        return Generated(text.strip(), tuple(pieces))

    async def _in_model(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in the model's thread between two steps."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def job() -> None:
            try:
                result = work()
            except Exception as error:
                loop.call_soon_threadsafe(settle, None, error)
            else:
                loop.call_soon_threadsafe(settle, result, None)

        self._batcher.call(job)
        return await future
