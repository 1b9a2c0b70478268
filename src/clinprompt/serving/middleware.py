"""The outer layers of the server, as plain ASGI: defects, request ids, sizes, hosts, and a log line a request.

The log names the route's template, never the path or a header as the client wrote it.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinprompt.serving import problems
from clinprompt.serving.service import Service

log = logging.getLogger("clinprompt.serving")
LEFT = 499  # logged for clients that left before they were answered, as nginx does
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Around everything else: gives each request an id, refuses foreign hosts and large bodies, counts and logs, and
    turns a defect into a 500 that says nothing."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        started, status = time.monotonic(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", []))
                message["headers"] = [*headers, (b"x-request-id", state["request_id"].encode())]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, noting)
            else:
                await self._app(scope, self._counted(scope, receive), noting)
        except (problems.Gone, ClientDisconnect):
            status = LEFT
        except Exception as error:
            self._service.metrics.defects.inc()
            problems.note_defect(error, state["request_id"])
            if not status:
                answer = problems.body(500, "Defect", "a defect of the server; its log names the place.")
                await answer(scope, receive, noting)
        finally:
            self._record(scope, state, status, time.monotonic() - started)

    def _record(self, scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "(none)")
        method = (
            scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS") else "(other)"
        )
        metrics = self._service.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        key = state.get("key", "-")
        log.info("%s %s %s %d %.1f ms key=%s", state["request_id"], method, route, status, seconds * 1000, key)

    def _refusal(self, scope: Scope) -> Any:
        headers = dict(scope["headers"])
        hosts = self._service.settings.hosts
        name = headers.get(b"host", b"").decode("latin-1").lower()
        name = name if name.endswith("]") else name.rpartition(":")[0] or name
        if hosts and name not in hosts:
            self._service.metrics.refused.labels("host").inc()
            return problems.body(403, "Forbidden", "this server answers under its own names only.")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limit(scope):
            self._service.metrics.refused.labels("size").inc()
            return problems.body(413, "TooLarge", f"a body may have {self._limit(scope)} bytes here.")
        return None

    def _limit(self, scope: Scope) -> int:
        settings = self._service.settings
        return settings.upload_bytes if scope["method"] == "PUT" else settings.body_bytes

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that stops at the limit, for bodies that do not say their length."""
        left = self._limit(scope)

        async def counting() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    self._service.metrics.refused.labels("size").inc()
                    raise HTTPException(413)
            return message

        return counting
