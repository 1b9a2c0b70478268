"""The tasks that are served: list, card, file; add and remove while the server runs."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse

from clinprompt.serving.access import allowed
from clinprompt.serving.documents import card_of, summary_of
from clinprompt.serving.problems import ALWAYS, Forbidden, responses
from clinprompt.serving.schemas import NotServed, TaskCard, TaskCards, TaskList
from clinprompt.serving.service import Service

BINARY = "application/octet-stream"


def router(service: Service) -> APIRouter:
    """The routes of a service."""
    routes = APIRouter(prefix="/v1/tasks", tags=["tasks"])
    reads, manages = allowed(service, "predict"), allowed(service, "manage")

    @routes.get("", responses=responses(*ALWAYS), dependencies=[Depends(reads)])
    async def tasks() -> TaskList:
        """The tasks, and files in the folder that could not be served."""
        return TaskList(
            model=service.engine.model,
            fingerprint=service.engine.fingerprint,
            tasks=[summary_of(task) for _, task in sorted(service.engine.tasks().items())],
            refused=[NotServed(name=one.name, reason=one.reason) for one in service.library.refused.values()],
        )

    @routes.get("/{name}", responses=responses(*ALWAYS, 404), dependencies=[Depends(reads)])
    async def card(name: str) -> TaskCard:
        """A task with its card: data it saw, scores, settings."""
        return card_of(service.task(name), service.library.file_of(name).name, service.library.size(name))

    @routes.get(
        "/{name}/file",
        responses={200: {"content": {BINARY: {}}, "description": "the task file"}, **responses(*ALWAYS, 404)},
        response_class=FileResponse,
        dependencies=[Depends(reads)],
    )
    async def file(name: str) -> FileResponse:
        """The task file itself (safetensors); for one task of a multi-task adapter, the adapter's."""
        path = service.library.file_of(service.task(name).name)
        return FileResponse(path, media_type=BINARY, filename=path.name)

    @routes.put(
        "/{name}",
        responses=responses(*ALWAYS, 404),
        dependencies=[Depends(manages)],
        openapi_extra={
            "requestBody": {"required": True, "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}
        },
    )
    async def put(name: str, request: Request) -> TaskCard | TaskCards:
        """Serve an uploaded task file under a name, at once; one of the same name serves until this one is ready. Of a
        multi-task adapter each task is served as `name.TASK`, and their cards come back as a list."""
        _require_managing(service)
        content = await request.body()
        tasks, file = await service.library.put(name, content), service.library.path(name).name
        cards = [card_of(task, file, len(content)) for task in tasks]
        return cards[0] if cards[0].name == name else TaskCards(tasks=cards)

    @routes.delete("/{name}", status_code=204, responses=responses(*ALWAYS, 404), dependencies=[Depends(manages)])
    async def delete(name: str) -> Response:
        """Stop serving a task and delete its file; requests under way are answered. A multi-task adapter goes as a
        whole, by the name of its file."""
        _require_managing(service)
        await service.library.delete(name)
        return Response(status_code=204)

    return routes


def _require_managing(service: Service) -> None:
    if not service.settings.manage:
        raise Forbidden("this server's tasks are changed in its folder only.")
