"""The tasks that are served: list, card, file; add and remove while the server runs."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse

from clinprompt.serving.access import allowed
from clinprompt.serving.documents import card_of, summary_of
from clinprompt.serving.problems import ALWAYS, Forbidden, responses
from clinprompt.serving.schemas import NotServed, TaskCard, TaskList
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
        return card_of(service.task(name), service.library.size(name))

    @routes.get(
        "/{name}/file",
        responses={200: {"content": {BINARY: {}}, "description": "the task file"}, **responses(*ALWAYS, 404)},
        response_class=FileResponse,
        dependencies=[Depends(reads)],
    )
    async def file(name: str) -> FileResponse:
        """The task file itself (safetensors)."""
        path = service.library.path(service.task(name).name)
        return FileResponse(path, media_type=BINARY, filename=path.name)

    @routes.put(
        "/{name}",
        responses=responses(*ALWAYS, 404),
        dependencies=[Depends(manages)],
        openapi_extra={
            "requestBody": {"required": True, "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}
        },
    )
    async def put(name: str, request: Request) -> TaskCard:
        """Serve an uploaded task file under a name, at once; one of the same name serves until this one is ready."""
        _require_managing(service)
        content = await request.body()
        return card_of(await service.library.put(name, content), len(content))

    @routes.delete("/{name}", status_code=204, responses=responses(*ALWAYS, 404), dependencies=[Depends(manages)])
    async def delete(name: str) -> Response:
        """Stop serving a task and delete its file; requests under way are answered."""
        _require_managing(service)
        await service.library.delete(service.task(name).name)
        return Response(status_code=204)

    return routes


def _require_managing(service: Service) -> None:
    if not service.settings.manage:
        raise Forbidden("this server's tasks are changed in its folder only.")
