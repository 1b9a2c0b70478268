"""Is it alive, is it ready, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from clinprompt.serving.access import allowed
from clinprompt.serving.problems import responses
from clinprompt.serving.service import Service
from clinprompt.version import __version__


def router(service: Service) -> APIRouter:
    """The routes of a service."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/health", responses=responses(403))
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "version": __version__}

    @routes.get("/ready", responses=responses(403, 503))
    async def ready() -> JSONResponse:
        """The folder of tasks is loaded and new requests are taken."""
        status = 200 if service.ready else 503
        return JSONResponse({"ready": service.ready, "tasks": len(service.engine.tasks())}, status_code=status)

    @routes.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=responses(401, 403, 429),
        dependencies=[Depends(allowed(service, "manage"))],
    )
    async def metrics() -> Response:
        """Prometheus metrics; with keys, one that may `manage`."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
