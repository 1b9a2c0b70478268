"""Server-sent events that free what they hold however they end: finished, failed, or left by the client."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from clinprompt.errors import ClinpromptError
from clinprompt.serving import problems

DONE = "data: [DONE]\n\n"


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class HeldStream(StreamingResponse):
    """A stream of events, and what to do when it is over."""

    def __init__(self, events: AsyncGenerator[str, None], release: Callable[[BaseException | None], None]) -> None:
        """`release` is called once, with what ended the stream: None where all was sent, the error that became its
        last event, Gone where the client left."""
        super().__init__(self._told(events), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events, self._release = events, release
        self._ended: BaseException | None = problems.Gone()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._release(self._ended)

    async def _told(self, events: AsyncGenerator[str, None]) -> AsyncIterator[str]:
        """The events; an error of ours becomes the last one."""
        failed: Exception | None = None
        try:
            async for one in events:
                yield one
        except ClinpromptError as error:
            failed = self._ended = error
            problem = problems.Problem(type=type(error).__name__, message=str(error))
            yield event({"error": problem.model_dump()})
        except Exception as error:
            self._ended = error
            raise
        yield DONE
        self._ended = failed
