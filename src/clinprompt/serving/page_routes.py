"""`/`: the page, its scripts and styles; `/docs`: the API for people; and what the page's cards show of a prompt."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from clinprompt.adapters.inspect import changes
from clinprompt.prompts.inspect import nearest_tokens
from clinprompt.serving.access import allowed
from clinprompt.serving.engine import ServedTask, UnknownTask
from clinprompt.serving.problems import ALWAYS, responses
from clinprompt.serving.reference import reference_page
from clinprompt.serving.service import Service
from clinprompt.serving.transformers_engine import TransformersEngine

FOLDER = Path(__file__).with_name("page")
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Nothing is loaded from, or sent to, any other place; nothing inline runs; no other page may frame this one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class NearToken(BaseModel):
    """A vocabulary token near a position of a prompt."""

    token: str
    cosine: float


class PromptPosition(BaseModel):
    """One of a prompt's vectors."""

    norm: float
    nearest: list[NearToken]


class Change(BaseModel):
    """What an adapter does to one part of the model; `relative` to what was there."""

    part: str
    norm: float
    relative: float | None


class PromptView(BaseModel):
    """A task's prompt, or what its adapter changes, as far as numbers can be looked at. `known` False: this server's
    engine holds no weights."""

    name: str
    known: bool
    positions: list[PromptPosition] = []
    changes: list[Change] = []


def router(service: Service) -> APIRouter:
    """The page's routes."""
    routes = APIRouter()
    views: dict[str, PromptView] = {}
    looking = asyncio.Lock()

    @routes.get("/", include_in_schema=False)
    async def page() -> Response:
        return _static("index.html")

    @routes.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return _document(reference_page(request.app.openapi()).encode(), "text/html")

    @routes.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _static(name)

    @routes.get(
        "/v1/tasks/{name}/prompt",
        tags=["tasks"],
        responses=responses(*ALWAYS, 404),
        dependencies=[Depends(allowed(service, "predict"))],
    )
    async def prompt(name: str) -> PromptView:
        """A task's prompt: the norm of each vector, and the vocabulary's nearest tokens. Of an adapter: the norm of
        what it changes in each part of the model."""
        task = service.task(name)
        kept = f"{task.digest} {task.definition.name}"
        async with looking:
            if kept not in views:
                views[kept] = await asyncio.to_thread(_view, service, task)
            return views[kept].model_copy(update={"name": task.name})

    return routes


def _view(service: Service, task: ServedTask) -> PromptView:
    engine = service.engine
    if not isinstance(engine, TransformersEngine):
        return PromptView(name=task.name, known=False)
    if task.file.is_adapter:
        found = changes(engine.backbone, task.file)
        return PromptView(name=task.name, known=True, changes=[Change.model_validate(one) for one in found])
    backbone = replace(engine.backbone, tokenizer=copy.deepcopy(engine.backbone.tokenizer))
    prompt = task.file.prompt
    return PromptView(
        name=task.name,
        known=True,
        positions=[
            PromptPosition(norm=round(norm, 3), nearest=[NearToken(token=n.token, cosine=n.cosine) for n in near])
            for norm, near in zip(prompt.norm(dim=1).tolist(), nearest_tokens(backbone, prompt, 4), strict=True)
        ],
    )


def _static(name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise UnknownTask("there is nothing at this address.")
    return _document(*found)


def _document(content: bytes, kind: str) -> Response:
    return Response(content, media_type=f"{kind}; charset=utf-8", headers=HEADERS)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """The page's files, read once: nothing outside its folder can be asked for."""
    return {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in FOLDER.iterdir() if path.suffix in KINDS}
