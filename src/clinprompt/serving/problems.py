"""What a client is told when something goes wrong: a status, a kind, a sentence; never a word of what it sent."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from clinprompt.errors import ArtifactError, BackboneError, ClinpromptError, TaskError
from clinprompt.serving.engine import EngineBusy, EngineClosed, EngineFailed, UnknownTask

log = logging.getLogger("clinprompt.serving")


class Problem(BaseModel):
    """One thing that went wrong. `place`: where in the request, by field names and numbers."""

    type: str
    message: str
    place: str | None = None
    code: str | None = None


class ProblemBody(BaseModel):
    """Every error body (the form OpenAI clients read)."""

    error: Problem


class TooLarge(ClinpromptError):
    """A request beyond a limit of the server."""


class Forbidden(ClinpromptError):
    """A key that may not do this, or a host name that is not answered."""


class Unauthorised(ClinpromptError):
    """No key, or an unknown one."""


class TimedOut(ClinpromptError):
    """A request that was given up."""


class Gone(Exception):
    """The client left: there is nobody to be told anything."""


STATUSES: tuple[tuple[type[ClinpromptError], int], ...] = (
    (UnknownTask, 404),
    (TooLarge, 413),
    (Unauthorised, 401),
    (Forbidden, 403),
    (EngineBusy, 429),
    (EngineClosed, 503),
    (EngineFailed, 503),
    (TimedOut, 504),
    (TaskError, 422),
    (ArtifactError, 422),
    (BackboneError, 422),
)
DESCRIPTIONS = {
    400: "the body is no JSON",
    401: "no key, or an unknown one",
    403: "the key may not do this",
    404: "no such task",
    413: "beyond a limit of this server",
    422: "the request does not say what is needed",
    429: "the queue is full, or the key was used too often; see Retry-After",
    503: "the server is closing, or the model failed",
    504: "not answered in time",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the errors a route may answer with."""
    return {status: {"model": ProblemBody, "description": DESCRIPTIONS[status]} for status in statuses}


ALWAYS = (400, 401, 403, 413, 422, 429, 503)


def status_of(error: ClinpromptError) -> int:
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 400)


def body(status: int, kind: str, message: str, place: str | None = None, retry: float | None = None) -> JSONResponse:
    """An error as it is sent."""
    headers = {} if retry is None else {"Retry-After": str(max(1, math.ceil(retry)))}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    problem = ProblemBody(error=Problem(type=kind, message=message, place=place))
    return JSONResponse(problem.model_dump(), status_code=status, headers=headers)


def told(error: ClinpromptError) -> JSONResponse:
    """A known error as it is sent."""
    retry = error.retry_after if isinstance(error, EngineBusy) else None
    return body(status_of(error), type(error).__name__, str(error), retry=retry)


def install(app: FastAPI) -> None:
    """Make an application answer errors this way."""
    names = frozenset(_field_names(app))

    async def known(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ClinpromptError)
        return told(error)

    async def grouped(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BaseExceptionGroup)
        found = first_known(error)
        if found is None:
            raise error
        return told(found)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        status = 400 if first["type"] == "json_invalid" else 422
        return body(status, "InvalidRequest", _reason(first), _place(first["loc"], names))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = body(error.status_code, "HTTPError", _PHRASES.get(error.status_code, "the request was refused."))
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods(request))
        return response

    app.add_exception_handler(ClinpromptError, known)
    app.add_exception_handler(ExceptionGroup, grouped)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


_PHRASES = {
    400: "the body could not be read.",
    404: "there is nothing at this address; see /docs.",
    405: "this address does not know this method; see /docs.",
    413: "the body is larger than this server accepts.",
    415: "the body must be JSON.",
}


def _methods(request: Request) -> list[str]:
    """What the address of a request takes. Starlette's own header names the first route of a path only."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT") if takes(method)]


def _reason(error: Mapping[str, Any]) -> str:
    """Pydantic's sentence, which names types and limits; for JSON that cannot be read, the column alone."""
    if error["type"] == "json_invalid":
        return "not JSON."
    if tuple(error["loc"]) == ("body",) and error["type"] in ("model_attributes_type", "missing"):
        return "the body must be a JSON object, sent with `Content-Type: application/json`."
    return str(error["msg"]).removeprefix("Value error, ")


def _place(location: Sequence[str | int], names: frozenset[str]) -> str:
    """Where in the request; keys that we do not know are the client's words and are not repeated."""
    parts = [str(part) if isinstance(part, int) or part in names else "(unknown)" for part in location]
    return ".".join(parts[1:] if parts[0] in ("body", "query", "path") else parts)


def _field_names(app: FastAPI) -> Iterator[str]:
    """Every name in the API's own schemas."""
    for kind, schema in app.openapi().get("components", {}).get("schemas", {}).items():
        yield kind
        yield from schema.get("properties", {})
    yield from ("body", "query", "path", "header", "names", "name")


def first_known(error: BaseException) -> ClinpromptError | None:
    """The first of our errors in a group."""
    if isinstance(error, ClinpromptError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := first_known(inner))), None)
    return None


def note_defect(error: BaseException, request_id: str) -> None:
    """Log type and places of an unexpected error. Its message and its values stay unsaid: they may hold a note."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    log.error("request %s met a defect: %s at %s", request_id, type(error).__name__, places)
