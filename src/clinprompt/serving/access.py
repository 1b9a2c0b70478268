"""Who is asking: the key of a request, and what it may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from clinprompt.serving.engine import EngineBusy
from clinprompt.serving.keys import Scope
from clinprompt.serving.problems import Forbidden, Unauthorised
from clinprompt.serving.service import Service

bearer = HTTPBearer(auto_error=False, description="An API key of this server.")


class TooOften(EngineBusy):
    """A key that was used more often than it may."""


def allowed(service: Service, scope: Scope) -> Callable[..., Awaitable[str]]:
    """A dependency that gives the id of the caller's key (`-` where no keys are kept), or refuses the request."""
    keys = service.keys

    async def nobody() -> str:
        return "-"

    async def check(request: Request, given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> str:
        assert keys is not None
        entry = keys.find(given.credentials) if given is not None else None
        if entry is None:
            service.metrics.refused.labels("key").inc()
            raise Unauthorised("this server needs an API key: `Authorization: Bearer <key>`.")
        request.state.key = entry.id
        if scope not in entry.scopes:
            service.metrics.refused.labels("scope").inc()
            raise Forbidden(f"this key may not {scope}.")
        wait = keys.take(entry)
        if wait:
            service.metrics.refused.labels("rate").inc()
            raise TooOften(wait)
        return entry.id

    return nobody if keys is None else check
