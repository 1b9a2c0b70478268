"""`POST /v1/tasks/{names}/predict`: one or many documents, one or several tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.serving.access import allowed
from clinprompt.serving.documents import answer_of, record_of, require_fields
from clinprompt.serving.engine import ServedTask
from clinprompt.serving.predicting import Answer, Asked, answer, ask
from clinprompt.serving.problems import ALWAYS, Gone, TimedOut, TooLarge, responses
from clinprompt.serving.schemas import PredictRequest, PredictResponse, Usage
from clinprompt.serving.service import Service

T = TypeVar("T")


def router(service: Service) -> APIRouter:
    """The route of a service."""
    routes = APIRouter(tags=["predict"])

    @routes.post(
        "/v1/tasks/{names}/predict",
        responses=responses(*ALWAYS, 404, 504),
        response_model_exclude_unset=True,
        dependencies=[Depends(allowed(service, "predict"))],
    )
    async def predict(names: str, asked: PredictRequest, request: Request) -> PredictResponse:
        """Answer documents with a task, or with several (`a,b,c`). Offsets are those of the text that was sent."""
        tasks = _tasks(service, names)
        records = _records(service, tasks, asked)
        with service.book(request.state, [task.name for task in tasks], [record.text for record in records]):
            work = answers(service, tasks, records, constrained=asked.constrained)
            pairs = await until_gone(request, within(service, work))
        documents = [document for document in asked.documents for _ in tasks]
        return PredictResponse(
            request=request.state.request_id,
            model=service.engine.model,
            answers=[
                answer_of(one.task, document, found) for document, (one, found) in zip(documents, pairs, strict=True)
            ],
            usage=Usage(
                questions=sum(len(one.examples) for one, _ in pairs), tokens=sum(found.written for _, found in pairs)
            ),
        )

    return routes


def _tasks(service: Service, names: str) -> list[ServedTask]:
    asked = names.split(",")
    if len(asked) > service.settings.tasks:
        raise TooLarge(f"a request may name {service.settings.tasks} tasks.")
    return [service.task(name.strip()) for name in asked]


def _records(service: Service, tasks: Sequence[ServedTask], asked: PredictRequest) -> list[Record]:
    if len(asked.documents) > service.settings.documents:
        raise TooLarge(f"a request may have {service.settings.documents} documents.")
    records = [record_of(number, document) for number, document in enumerate(asked.documents)]
    for task in tasks:
        for number, record in enumerate(records):
            require_fields(task, number, record)
    return records


async def answers(
    service: Service, tasks: Sequence[ServedTask], records: Sequence[Record], *, constrained: bool = False
) -> list[tuple[Asked, Answer]]:
    """Every task's answer about every record, document by document. Raises TooLarge, EngineBusy, TaskError."""
    if constrained and not service.engine.constrains:
        raise TaskError("constrained: this server's engine cannot do that; leave it out.")
    await require_size(service, records)
    asked: list[Asked] = []
    left = service.settings.questions
    for record in records:
        for task in tasks:
            asked.append(await ask(service.engine, task, record, most=left))
            left -= len(asked[-1].examples)
    with service.hold(service.settings.questions - left):
        found = await gather([answer(service.engine, one, constrained=constrained) for one in asked])
    return list(zip(asked, found, strict=True))


async def require_size(service: Service, records: Sequence[Record]) -> None:
    """Refuse documents that are longer than this server answers."""
    most = service.settings.document_tokens
    for number, record in enumerate(records):
        parts = [record.text, record.hypothesis or "", record.question or "", *(text for _, text in record.options)]
        text = "\n".join(parts)
        # A token is at least one byte, so most documents need not be counted.
        if len(text.encode("utf-8", "surrogatepass")) > most:
            counted = text
            if await service.engine.desk.run(lambda counted=counted: service.engine.length(counted)) > most:  # type: ignore[misc]
                service.metrics.refused.labels("tokens").inc()
                raise TooLarge(f"documents.{number}: a document may have {most} tokens.")


async def gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest."""
    async with asyncio.TaskGroup() as group:
        going = [group.create_task(one) for one in work]
    return [task.result() for task in going]


async def within(service: Service, work: Coroutine[Any, Any, T]) -> T:
    """Work that is given up when the server's time for a request is over. Raises TimedOut."""
    try:
        async with asyncio.timeout(service.settings.seconds):
            return await work
    except TimeoutError:
        service.metrics.refused.labels("time").inc()
        raise TimedOut(f"not answered within {service.settings.seconds:g} s; send less at once.") from None


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Work that is cancelled when the client leaves, so that its slots are free at once. Raises Gone."""
    going, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((going, leaving), return_when=asyncio.FIRST_COMPLETED)
        if going.done():
            return going.result()
        raise Gone
    finally:
        for task in (going, leaving):
            task.cancel()
        await asyncio.gather(going, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while True:
        if (await request.receive())["type"] == "http.disconnect":
            return
