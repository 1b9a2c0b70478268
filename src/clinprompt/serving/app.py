"""The application: routes of one service behind its guards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from clinprompt.serving import (
    export_routes,
    openai_routes,
    operation_routes,
    page_routes,
    prediction_routes,
    problems,
    task_routes,
    teach_routes,
)
from clinprompt.serving.middleware import Guard
from clinprompt.serving.service import Service
from clinprompt.serving.teaching import Teacher, TeachSettings
from clinprompt.version import __version__

log = logging.getLogger("clinprompt.serving")
ABOUT = (
    "One frozen language model, many clinical NLP tasks. Research software: not a medical device, not for decisions "
    "about patients."
)


def create_app(service: Service, teach: TeachSettings | None = None) -> FastAPI:
    """The ASGI application of a service with its page; starts and stops it with its lifespan."""
    teacher = Teacher(service, teach)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Load the tasks before the first request; at the end, answer what was accepted and close everything."""
        asyncio.get_running_loop().set_exception_handler(_note)
        beside = await service.start()
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await teacher.close()
            await service.stop()

    # FastAPI's own pages of the API load scripts from elsewhere; `page_routes` has one that does not.
    app = FastAPI(
        title="clinprompt", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.include_router(prediction_routes.router(service))
    app.include_router(task_routes.router(service))
    app.include_router(openai_routes.router(service))
    app.include_router(operation_routes.router(service))
    app.include_router(export_routes.router(service))
    app.include_router(teach_routes.router(service, teacher))
    app.include_router(page_routes.router(service))
    problems.install(app)
    app.add_middleware(Guard, service=service)
    return app


def _note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio reports of forgotten tasks, without the values they held."""
    error = context.get("exception")
    log.error("event loop: %s", type(error).__name__ if error else "a warning")
