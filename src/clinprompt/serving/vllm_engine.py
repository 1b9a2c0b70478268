"""The engine that asks a vLLM server which has a baked model loaded.

vLLM does what it is good at (continuous batching, paged keys and values, its prefix cache, which holds every task's
prompt after its first request); rendering, tokenizing, decoding and parsing are those of the in-process path.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clinprompt.backbone.encoding import encode, target_tokens
from clinprompt.errors import BackboneError, TaskError, unknown_name
from clinprompt.evaluation.answerer import of_task
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.serving import bake
from clinprompt.serving.baked import Baked, open_baked
from clinprompt.serving.baked_manifest import MANIFEST, SPELLED
from clinprompt.serving.detokenizing import Detokenizer, Stopper
from clinprompt.serving.engine import (
    Desk,
    EngineBusy,
    EngineClosed,
    Finish,
    Generated,
    Load,
    Piece,
    Question,
    ServedTask,
    UnknownTask,
)
from clinprompt.serving.vllm_client import Said, Spare, VllmClient
from clinprompt.training.examples import task_codec

PATIENCE = 60.0  # seconds that a new task waits for the rows of a former one
STARTING = 3.0  # seconds: vLLM takes longer to come to its weights, and its clock counts whole ones
MOST_FORBIDDEN = 1024  # entries of `logit_bias` that vLLM's model runner on GPUs holds for a request


@dataclass(frozen=True, eq=False)
class _Served(ServedTask):
    """A task as it was baked when it was loaded: its prompt's token ids."""

    ids: tuple[int, ...] = ()


class VllmEngine:
    """An `Engine` over a running vLLM server. Make one with `connect`.

    `reloads`: the server reads its weights anew when it is told to (one that `vllm_server` started does), so tasks may
    be added while it runs. Otherwise only tasks that were baked before it started can be served.
    """

    def __init__(
        self, baked: Baked, client: VllmClient, served: str, context: int, *, waiting: int = 4096, reloads: bool = False
    ) -> None:
        self._baked, self._client, self._served, self._context = baked, client, served, context
        self._waiting, self._reloads = waiting, reloads
        self._tasks: dict[str, _Served] = {}
        # Every task that somebody may still ask: those served, and former ones while a question holds them.
        self._held: weakref.WeakSet[_Served] = weakref.WeakSet()
        self._removed: set[str] = set()  # names to be taken out of the folder with its next change
        self._desk, self._changing = Desk(), asyncio.Lock()
        self._inside = self._read = self._written = self._passes = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def model(self) -> str:
        return self._baked.manifest.backbone.name

    @property
    def fingerprint(self) -> str:
        return self._baked.manifest.backbone.fingerprint

    @property
    def context(self) -> int:
        return self._context

    @property
    def desk(self) -> Desk:
        return self._desk

    @property
    def constrains(self) -> bool:
        return True

    @property
    def client(self) -> VllmClient:
        """The server, for its metrics."""
        return self._client

    def tasks(self) -> Mapping[str, ServedTask]:
        return dict(self._tasks)

    def length(self, text: str) -> int:
        return self._baked.text.length(text)

    def load(self) -> Load:
        return Load(self._inside, 0, self._waiting, self._read, self._written, self._passes)

    # -- tasks ------------------------------------------------------------------------------------------------------

    async def add(self, name: str, file: TaskPrompt) -> ServedTask:
        """As `Engine.add`: a prompt that is not in the folder is baked, and a server of ours reads its weights anew."""
        async with self._changing:
            if not self._has(name, file):
                if not self._reloads:
                    raise BackboneError(
                        f"task {name}: not baked into the model that vLLM serves. Add it with `clinprompt bake FILE "
                        f"--out {self._baked.folder} --add` and start vLLM again."
                    )
                await self._bake(name, file)
            task = await self._desk.run(lambda: self._prepared(name, file))
            self._held.add(task)
            self._removed.discard(name)
            self._tasks[name] = task
            return task

    async def _bake(self, name: str, file: TaskPrompt) -> None:
        """Write a prompt into rows that nobody reads, and have the server read them."""
        folder = self._baked.folder
        gone = [one for one in self._baked.manifest.names if one in self._removed]
        if gone:
            manifest = await asyncio.to_thread(bake.remove, folder, gone, clear=False)
            self._baked = replace(self._baked, manifest=manifest)
            self._removed.difference_update(gone)
        held = await self._rows_held(len(file.prompt))
        await asyncio.to_thread(bake.add_prompt, folder, name, file, held=held)
        await self._client.reload()
        self._baked = await asyncio.to_thread(open_baked, folder)

    async def _rows_held(self, needed: int) -> set[int]:
        """Rows of all tasks that may still be asked: vLLM begins questions under way again when it has read its weights
        anew, so a row must not change before the last of them is answered. Waits while that leaves too few others."""
        began, free = time.monotonic(), set(self._baked.manifest.free)
        while True:
            held = {index for task in self._held for index in task.ids}
            if len(free - held) >= needed or len(free) < needed or time.monotonic() - began > PATIENCE:
                return held
            await asyncio.sleep(0.05)

    def _has(self, name: str, file: TaskPrompt) -> bool:
        """Whether exactly this prompt is baked under this name."""
        if name not in self._baked.manifest.names:
            return False
        return torch.equal(self._baked.stored(name), bake.as_stored(file.prompt, self._baked.manifest))

    def _prepared(self, name: str, file: TaskPrompt) -> _Served:
        who = of_task(self._baked.text, file)
        codec = task_codec(self._baked.text, who.task, len(file.prompt), who.reserve, who.window)
        return _Served(name, file, codec, self._baked.manifest.task(name).ids)

    async def remove(self, name: str) -> None:
        if name not in self._tasks:
            raise UnknownTask(unknown_name("task", name, sorted(self._tasks)))
        del self._tasks[name]
        self._removed.add(name)

    # -- questions --------------------------------------------------------------------------------------------------

    async def answer(self, question: Question) -> Generated:
        async with self._taken():
            request = await self._desk.run(lambda: self._request(question))
            said = await self._client.complete(request)
            self._count(len(request["prompt"]), len(said.ids))
            return await self._desk.run(lambda: self._generated(question, said))

    async def generate(self, question: Question) -> AsyncGenerator[Piece, None]:
        """As `Engine.generate`; closing the generator ends the answer on the server."""
        async with self._taken():
            request = await self._desk.run(lambda: self._request(question))
            words, stopper = Detokenizer(self._baked.text.tokenizer), Stopper(question.stop)
            written = 0
            parts = self._client.stream(request)
            async with contextlib.aclosing(parts):
                async for part in parts:
                    written += len(part.ids)
                    pieces = await self._desk.run(lambda part=part: self._pieces(part, words, stopper))  # type: ignore[misc]
                    for piece in pieces:
                        yield piece
                        if piece.finish is not None:
                            self._count(len(request["prompt"]), written)
                            return
            raise EngineClosed(f"the vLLM server at {self._client.url} ended an answer before its end.")

    async def score(self, question: Question) -> tuple[float, ...]:
        """Every distinct beginning of the choices is read once, behind the cached prefix of the question."""
        async with self._taken():
            ids, choices = await self._desk.run(lambda: self._with_choices(question))
            beginnings: dict[tuple[int, ...], set[int]] = {}
            for choice in choices:
                for place in range(len(choice)):
                    beginnings.setdefault(tuple(choice[:place]), set()).add(choice[place])
            found: dict[tuple[int, ...], dict[int, float]] = {}
            found[()] = await self._next(ids, (), beginnings.pop(()))  # fills the prefix cache for the others
            async with asyncio.TaskGroup() as group:
                going = {part: group.create_task(self._next(ids, part, ends)) for part, ends in beginnings.items()}
            found |= {part: task.result() for part, task in going.items()}
            return tuple(sum(found[tuple(c[:i])][c[i]] for i in range(len(c))) / len(c) for c in choices)

    async def close(self) -> None:
        """Answer what was accepted, refuse the rest, and let go of the server (it goes on running)."""
        self._closed = True
        await self._idle.wait()
        await self._client.close()
        self._desk.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _taken(self) -> AsyncIterator[None]:
        if self._closed:
            raise EngineClosed("the engine is closing and takes no more questions.")
        if self._inside >= self._waiting:
            raise EngineBusy()
        self._inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    def _count(self, read: int, written: int) -> None:
        self._read, self._written, self._passes = self._read + read, self._written + written, self._passes + 1

    async def _next(self, ids: list[int], beginning: tuple[int, ...], ends: set[int]) -> dict[int, float]:
        request = {"model": self._served, "prompt": [*ids, *beginning], "add_special_tokens": False}
        self._count(len(ids) + len(beginning), 0)
        return await self._client.next_logprobs(request, sorted(ends))

    def _ids(self, question: Question) -> list[int]:
        task = question.task
        if task is None:
            ids = encode(self._baked.text, [question.source], None, "start")[0].ids.tolist()
            if not ids:
                raise TaskError("there is nothing to read: give at least one character.")
            return list(ids)
        if not isinstance(task, _Served):
            raise UnknownTask(f"task {task.name!r} was loaded by another engine.")
        plain = encode(self._baked.text, [question.source], None, task.file.card.position)[0]
        place = int(plain.insert_at)
        return [*plain.ids[:place].tolist(), *task.ids, *plain.ids[place:].tolist()]

    def _request(self, question: Question) -> dict[str, Any]:
        ids, sampling = self._ids(question), question.sampling
        limit = min(question.limit, self._context - len(ids))
        if limit < 1:
            raise TaskError(f"a prompt and source of {len(ids)} tokens leave no room for an answer in {self._context}.")
        request: dict[str, Any] = {
            "model": self._served,
            "prompt": ids,
            "add_special_tokens": False,
            "max_tokens": limit,
            "temperature": sampling.temperature,
        }
        if question.stop:
            request["stop"] = list(question.stop)
        if question.constraint is not None:
            grammar = question.constraint.grammar()
            request |= {"structured_outputs": {"grammar": grammar}}
            # Backends of grammars know a new token by its text: they let it through where an answer may spell it.
            if SPELLED in question.source or SPELLED in grammar:
                request |= {"logit_bias": self._never("a text that spells prompt tokens is copied from")}
        elif sampling.temperature > 0:
            request |= {"logit_bias": self._never("an answer is drawn at a temperature")}
        if sampling.temperature > 0:
            request |= {"top_p": sampling.top_p, "top_k": -1}
            request |= {"seed": sampling.seed} if sampling.seed is not None else {}
        return request

    def _never(self, why: str) -> dict[str, float]:
        """Forbids the new tokens: where the likeliest token of all is not taken, their logits alone do not.

        Raises TaskError where they are more than vLLM can forbid: it would not refuse the request but end.
        """
        tables = self._baked.manifest.tables
        if tables.room > MOST_FORBIDDEN:
            raise TaskError(
                f"this baked model has room for {tables.room} prompt tokens and vLLM forbids {MOST_FORBIDDEN} at most, "
                f"which it has to when {why}. Ask for a greedy answer that is not constrained, or bake with "
                f"--room {MOST_FORBIDDEN - 64} or less."
            )
        return {str(index): -100.0 for index in range(tables.rows, tables.rows + tables.room)}

    def _with_choices(self, question: Question) -> tuple[list[int], list[list[int]]]:
        ids, choices = self._ids(question), target_tokens(self._baked.text, list(question.choices))
        longest = max((len(choice) for choice in choices), default=0)
        if not choices or len(ids) + longest > self._context:
            raise TaskError(f"a source of {len(ids)} tokens leaves no room for its choices in {self._context} tokens.")
        return ids, choices

    def _generated(self, question: Question, said: Said) -> Generated:
        tokenizer = self._baked.text.tokenizer
        words, stopper = Detokenizer(tokenizer), Stopper(question.stop)
        pieces = self._pieces(said, words, stopper)
        text = "".join(piece.text for piece in pieces)
        if not question.stop:
            text = tokenizer.decode(
                [i for i in said.ids if i not in self._baked.text.end_ids], skip_special_tokens=True
            )
        return Generated(text.strip(), tuple(pieces))

    def _pieces(self, said: Said, words: Detokenizer, stopper: Stopper) -> list[Piece]:
        """Tokens as pieces. The end of an answer is a piece without text; what was held back comes before it."""
        ends, pieces = self._baked.text.end_ids, []
        for token, logprob in zip(said.ids, said.logprobs, strict=False):
            text = stopper.push(words.rest()) + stopper.rest() if token in ends else stopper.push(words.push(token))
            pieces.append(Piece(text, logprob))
        if said.finish is None:
            return pieces
        finish: Finish = "stop" if said.finish == "stop" else "length"
        rest = stopper.push(words.rest()) + stopper.rest()
        if not pieces:
            return [Piece(rest, 0.0, finish)]
        pieces[-1] = replace(pieces[-1], text=pieces[-1].text + rest, finish=finish)
        return pieces


async def connect(
    folder: Path,
    url: str,
    *,
    api_key: str | None = None,
    waiting: int = 4096,
    concurrency: int = 256,
    reloads: bool = False,
) -> VllmEngine:
    """An engine for a vLLM server at `url` that serves the baked model in `folder`.

    Raises EngineClosed if it does not answer, BackboneError if it serves another model.
    """
    client = VllmClient(url, api_key=api_key, concurrency=concurrency)
    try:
        return await over(client, folder, waiting=waiting, reloads=reloads)
    except BaseException:
        await client.close()
        raise


async def over(client: VllmClient, folder: Path, *, waiting: int = 4096, reloads: bool = False) -> VllmEngine:
    """An engine over a client; see `connect`."""
    baked = await asyncio.to_thread(open_baked, folder)
    client.spare = Spare(baked.manifest.tables.rows, baked.manifest.tables.room)
    models = await client.models()
    # A server names its model after the folder it was given, unless --served-model-name says otherwise.
    fitting = [m for m in models if Path(str(m.get("root"))).name == folder.resolve().name] or models[:1]
    if not fitting:
        raise BackboneError(f"the vLLM server at {client.url} serves no model.")
    longest = int(fitting[0].get("max_model_len") or baked.text.context)
    context = min(longest, baked.text.context)
    engine = VllmEngine(baked, client, str(fitting[0]["id"]), context, waiting=waiting, reloads=reloads)
    await _same_model(engine, baked)
    if not reloads:
        await _unchanged(client, folder)
    return engine


async def _same_model(engine: VllmEngine, baked: Baked) -> None:
    """The last row of the vocabulary exists there and one behind it does not: the server has this folder loaded."""
    tables, probe = baked.manifest.tables, {"model": engine._served, "add_special_tokens": False}
    last, other = tables.rows + tables.room - 1, f"the vLLM server at {engine.client.url} has another model than"
    try:
        await engine.client.next_logprobs(probe | {"prompt": [last]}, [last])
    except TaskError:
        raise BackboneError(f"{other} {baked.folder}: its vocabulary is smaller.") from None
    with contextlib.suppress(TaskError):  # as it should be: there is no such token
        await engine.client.next_logprobs(probe | {"prompt": [last + 1]}, [last])
        raise BackboneError(f"{other} {baked.folder}: its vocabulary is larger.")


async def _unchanged(client: VllmClient, folder: Path) -> None:
    """Refuse a folder that was changed after the server was started, if that tells when: it has read other rows."""
    started = await client.metric("process_start_time_seconds")
    if started and (folder / MANIFEST).stat().st_mtime > started + STARTING:
        raise BackboneError(
            f"{folder} was changed after the vLLM server at {client.url} was started, which reads it only then. Start "
            "vLLM again."
        )
