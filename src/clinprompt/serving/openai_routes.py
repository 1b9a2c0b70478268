"""OpenAI's API: each task is a model name, and so is the bare backbone.

`/v1/completions` continues the prompt as it stands. `/v1/chat/completions` asks the task about the last user message:
its text is the document (or it is a JSON object with the fields of one), and the answer is what the model wrote about
each window, line by line, or with `response_format: json_object` the structured answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import ValidationError

from clinprompt.errors import TaskError
from clinprompt.serving import openai_logprobs as logprobs_of
from clinprompt.serving.access import allowed
from clinprompt.serving.detokenizing import Trimmer
from clinprompt.serving.documents import answer_of, record_of, require_fields
from clinprompt.serving.engine import Finish, Generated, Piece, Question, Sampling, ServedTask
from clinprompt.serving.openai_schemas import (
    ChatChoice,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionChoice,
    CompletionRequest,
    Message,
    Model,
    ModelList,
    Said,
    TokenUsage,
)
from clinprompt.serving.predicting import Asked, ask
from clinprompt.serving.prediction_routes import answers, gather, require_size, until_gone, within
from clinprompt.serving.problems import ALWAYS, TimedOut, TooLarge, responses
from clinprompt.serving.schemas import Document
from clinprompt.serving.service import Service
from clinprompt.serving.streams import HeldStream, event

UNSTRUCTURED = ("temperature", "stop", "max_tokens", "max_completion_tokens", "logprobs")
BACKBONE_LIMIT = 128  # tokens written without a task, where the request names no limit


@dataclass(frozen=True)
class _Call:
    """What is the same for all parts of an answer."""

    request: Request
    id: str
    created: int
    model: str
    usage: bool = False  # whether a stream tells it
    logprobs: bool = False

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def router(service: Service) -> APIRouter:
    """The routes of a service."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])
    reads = Depends(allowed(service, "predict"))
    streamed: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

    @routes.get("/models", responses=responses(*ALWAYS), dependencies=[reads])
    async def models() -> ModelList:
        """The tasks and the backbone."""
        names = sorted(service.engine.tasks())
        own = [Model(id=name, owned_by="clinprompt") for name in names]
        return ModelList(data=[*own, Model(id=service.engine.model, owned_by="backbone")])

    @routes.get("/models/{name}", responses=responses(*ALWAYS, 404), dependencies=[reads])
    async def model(name: str) -> Model:
        """One of them."""
        task = _task(service, name)
        return Model(id=name, owned_by="backbone" if task is None else "clinprompt")

    @routes.post(
        "/completions",
        response_model=Completion,
        responses={**streamed, **responses(*ALWAYS, 404, 504)},
        dependencies=[reads],
    )
    async def completions(asked: CompletionRequest, request: Request) -> Completion | Response:
        """Continue a text behind a task's prompt."""
        call = _call(request, asked, asked.logprobs is not None)
        questions = await _raw(service, asked)
        held = _held(service, call, questions, [question.source for question in questions])
        if asked.stream:
            return await _stream(call, held, _completion_events(service, call, questions))
        with held:
            work = gather([service.engine.answer(question) for question in questions])
            found = await until_gone(request, within(service, work))
        return Completion(
            **call.head("text_completion"),
            choices=[
                CompletionChoice(
                    index=index,
                    text=_written(one),
                    finish_reason=one.finish,
                    logprobs=logprobs_of.text(one.pieces) if call.logprobs else None,
                )
                for index, one in enumerate(found)
            ],
            usage=await _usage(service, questions, sum(len(one.pieces) for one in found)),
        )

    @routes.post(
        "/chat/completions",
        response_model=ChatCompletion,
        responses={**streamed, **responses(*ALWAYS, 404, 504)},
        dependencies=[reads],
    )
    async def chat(asked: ChatRequest, request: Request) -> ChatCompletion | Response:
        """Ask a task about the last user message, or the backbone to continue the conversation."""
        call = _call(request, asked, asked.logprobs)
        task = _task(service, asked.model)
        if asked.response_format is not None and asked.response_format.type == "json_object":
            return await _structured(service, call, task, asked)
        questions = await _questions(service, task, asked)
        held = _held(service, call, questions, [_last(asked.messages)])
        if asked.stream:
            return await _stream(call, held, _chat_events(service, call, questions))
        with held:
            found = await until_gone(request, within(service, gather([_said(service, one) for one in questions])))
        pieces = [piece for one in found for piece in one.pieces]
        return ChatCompletion(
            **call.head("chat.completion"),
            choices=[
                ChatChoice(
                    message=Said(content="\n".join(one.text for one in found)),
                    finish_reason=_finish(one.finish for one in found),
                    logprobs=logprobs_of.chat(pieces) if call.logprobs else None,
                )
            ],
            usage=await _usage(service, questions, len(pieces)),
        )

    return routes


# -- what is asked -----------------------------------------------------------------------------------------------------


def _call(request: Request, asked: CompletionRequest | ChatRequest, logprobs: bool) -> _Call:
    usage = asked.stream_options is not None and asked.stream_options.include_usage
    return _Call(request, f"cmpl-{request.state.request_id}", int(time.time()), asked.model, usage, logprobs)


def _task(service: Service, model: str) -> ServedTask | None:
    """The task of a model name, None for the backbone. Raises UnknownTask."""
    return None if model == service.engine.model else service.task(model)


def _limit(task: ServedTask | None, *asked: int | None) -> int:
    return next((one for one in asked if one is not None), BACKBONE_LIMIT if task is None else task.limit)


async def _raw(service: Service, asked: CompletionRequest) -> list[Question]:
    task = _task(service, asked.model)
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if len(prompts) > service.settings.documents:
        raise TooLarge(f"a request may have {service.settings.documents} prompts.")
    await require_size(service, [record_of(number, prompt) for number, prompt in enumerate(prompts)])
    sampling = Sampling(asked.temperature, asked.top_p, asked.seed)
    limit = _limit(task, asked.max_tokens)
    return [Question(task, prompt, limit=limit, sampling=sampling, stop=asked.stops) for prompt in prompts]


async def _questions(service: Service, task: ServedTask | None, asked: ChatRequest) -> list[Question]:
    sampling = Sampling(asked.temperature, asked.top_p, asked.seed)
    limit = _limit(task, asked.max_completion_tokens, asked.max_tokens)
    if task is None:
        text = "\n".join(message.text for message in asked.messages)
        await require_size(service, [record_of(0, text)])
        return [Question(None, text, limit=limit, sampling=sampling, stop=asked.stops)]
    put = await _asked(service, task, asked.messages)
    if choices := sorted({choice for one in put.examples for choice in one.choices}):
        _refuse(asked, ("temperature", "stop"), "the task's answer is one of its choices")
        longest = await service.engine.desk.run(lambda: max(map(service.engine.length, choices)))
        given = "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
        if limit < longest and getattr(asked, given):
            raise TaskError(f"{given}: a choice of the task has {longest} tokens, and is not cut; allow as many.")
    return [
        Question(task, one.source, choices=one.choices, limit=limit, sampling=sampling, stop=asked.stops)
        for one in put.examples
    ]


def _refuse(asked: ChatRequest, names: Sequence[str], why: str) -> None:
    """Raises TaskError for parameters that could not do what they say. What says the default (0, null) may stand."""
    for name in names:
        if getattr(asked, name):
            raise TaskError(f"{name}: {why}, which this cannot change; leave it out.")


async def _asked(service: Service, task: ServedTask, messages: Sequence[Message]) -> Asked:
    record = record_of(0, _document(messages))
    require_fields(task, 0, record)
    await require_size(service, [record])
    return await ask(service.engine, task, record, most=service.settings.questions)


def _last(messages: Sequence[Message]) -> str:
    """The last user message. Raises TaskError if there is none."""
    said = next((message.text for message in reversed(messages) if message.role == "user"), None)
    if said is None:
        raise TaskError("messages: there is none of role `user`.")
    return said


def _document(messages: Sequence[Message]) -> Document | str:
    """The last user message: a JSON object with the fields of a document, or a text."""
    said = _last(messages)
    if not said.lstrip().startswith("{"):
        return said
    try:
        return Document.model_validate_json(said)
    except ValidationError:
        return said


# -- what is answered --------------------------------------------------------------------------------------------------


async def _said(service: Service, question: Question) -> Generated:
    """An answer as text; of a closed choice the most likely one, as one piece."""
    if not question.choices:
        return await service.engine.answer(question)
    scores = await service.engine.score(question)
    best = max(range(len(scores)), key=scores.__getitem__)
    return Generated(question.choices[best], (Piece(question.choices[best], scores[best], "stop"),))


async def _structured(
    service: Service, call: _Call, task: ServedTask | None, asked: ChatRequest
) -> ChatCompletion | Response:
    """The structured answer as one JSON text; a stream sends it whole."""
    if task is None:
        raise TaskError("response_format: json_object is the answer of a task, and no task is asked.")
    _refuse(asked, UNSTRUCTURED, "structured answers are greedy, whole, and tell confidences")
    document = _document(asked.messages)
    record = record_of(0, document)
    require_fields(task, 0, record)
    with service.book(call.request.state, [task.name], [_last(asked.messages)]):
        [(put, found)] = await until_gone(call.request, within(service, answers(service, [task], [record])))
    content = answer_of(task, document, found).model_dump_json(exclude_unset=True)
    questions = [Question(task, one.source) for one in put.examples]
    usage = await _usage(service, questions, found.written)
    if not asked.stream:
        choice = ChatChoice(message=Said(content=content), finish_reason="stop")
        return ChatCompletion(**call.head("chat.completion"), choices=[choice], usage=usage)

    async def events() -> AsyncGenerator[str, None]:
        yield _chunk(call, {"role": "assistant", "content": content}, None)
        yield _chunk(call, {}, "stop")
        if call.usage:
            yield event({**call.head("chat.completion.chunk"), "choices": [], "usage": usage.model_dump()})

    return HeldStream(events(), lambda _: None)


def _held(service: Service, call: _Call, questions: Sequence[Question], texts: Sequence[str]) -> ExitStack:
    """Places in the queue and a line in the books, to be closed at the end. Raises EngineBusy."""
    stack = ExitStack()
    names = [task.name for question in questions[:1] if (task := question.task) is not None]
    stack.enter_context(service.book(call.request.state, names or [service.engine.model], texts))
    stack.enter_context(service.hold(len(questions)))
    return stack


async def _stream(call: _Call, held: ExitStack, events: AsyncGenerator[str, None]) -> Response:
    """A stream whose first event is there, so that what can be refused is refused with a status."""

    async def opening() -> str:
        return await anext(events)

    try:
        first = await until_gone(call.request, opening())
    except BaseException:
        held.__exit__(*sys.exc_info())
        raise

    def release(ended: BaseException | None) -> None:
        held.__exit__(None if ended is None else type(ended), ended, None)

    return HeldStream(_joined(first, events), release)


async def _joined(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    async with aclosing(rest):
        yield first
        async for one in rest:
            yield one


async def _pieces(service: Service, question: Question, until: float) -> AsyncIterator[Piece]:
    """The answer piece by piece, up to a moment of the monotonic clock. Raises TimedOut."""
    async with aclosing(_unhurried(service, question)) as pieces:
        while True:
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                service.metrics.refused.labels("time").inc()
                raise TimedOut(f"not answered within {service.settings.seconds:g} s; send less at once.") from None
            yield piece


async def _unhurried(service: Service, question: Question) -> AsyncGenerator[Piece, None]:
    if question.choices:
        for piece in (await _said(service, question)).pieces:
            yield piece
        return
    async with aclosing(service.engine.generate(question)) as pieces:
        async for piece in pieces:
            yield piece


async def _completion_events(service: Service, call: _Call, questions: Sequence[Question]) -> AsyncGenerator[str, None]:
    written, until = 0, time.monotonic() + service.settings.seconds
    for index, question in enumerate(questions):
        offset = 0
        async for piece in _pieces(service, question, until):
            written += 1
            if piece.text or piece.finish is not None or call.logprobs:
                logprobs = logprobs_of.text([piece], offset) if call.logprobs else None
                choice = {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}
                yield event({**call.head("text_completion"), "choices": [choice]})
            offset += len(piece.text)
    if call.usage:
        usage = await _usage(service, questions, written)
        yield event({**call.head("text_completion"), "choices": [], "usage": usage.model_dump()})


async def _chat_events(service: Service, call: _Call, questions: Sequence[Question]) -> AsyncGenerator[str, None]:
    """Windows one after the other, line by line; the ends of each are trimmed as in whole answers."""
    written, finishes, until = 0, [], time.monotonic() + service.settings.seconds
    yield _chunk(call, {"role": "assistant", "content": ""}, None)
    for index, question in enumerate(questions):
        trimmer, before = Trimmer(), "\n" if index else ""
        async for piece in _pieces(service, question, until):
            written += 1
            text, before = before + trimmer.push(piece.text), ""
            if text or call.logprobs:
                yield _chunk(call, {"content": text}, None, [piece])
            if piece.finish is not None:
                finishes.append(piece.finish)
    yield _chunk(call, {}, _finish(finishes))
    if call.usage:
        usage = await _usage(service, questions, written)
        yield event({**call.head("chat.completion.chunk"), "choices": [], "usage": usage.model_dump()})


def _chunk(call: _Call, delta: dict[str, str], finish: Finish | None, pieces: Sequence[Piece] = ()) -> str:
    logprobs = logprobs_of.chat(pieces) if call.logprobs and pieces else None
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return event({**call.head("chat.completion.chunk"), "choices": [choice]})


def _finish(finishes: Any) -> Finish:
    return "length" if "length" in finishes else "stop"


def _written(generated: Generated) -> str:
    return "".join(piece.text for piece in generated.pieces)


async def _usage(service: Service, questions: Sequence[Question], written: int) -> TokenUsage:
    engine = service.engine
    read = await engine.desk.run(lambda: sum(engine.length(question.source) for question in questions))
    return TokenUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
