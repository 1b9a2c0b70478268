"""Requests to a vLLM server, by its OpenAI-compatible API, as token ids in and token ids out.

Token ids keep everything as it is in process: a note that spells a control token stays text, and answers are decoded by
the same tokenizer. Messages of the server are not passed on, because they may quote a request.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, NoReturn

import httpx

from clinprompt.errors import TaskError
from clinprompt.serving.engine import EngineBusy, EngineClosed

MOST_WANTED = 128  # logprob_token_ids of one request


@dataclass(frozen=True, slots=True)
class Spare:
    """The rows of a baked model's head that stand for new tokens: `count` equal ones, of which `token` is one.

    They take a share of every softmax (a small one, unless a model hardly prefers any token). It is taken out again, so
    that log-probabilities are those of the backbone.
    """

    token: int
    count: int

    def without(self, logprob: float, top: dict[str, float]) -> float:
        """A log-probability among the backbone's own tokens."""
        share = self.count * math.exp(top[f"token_id:{self.token}"])
        return logprob - math.log1p(-min(share, 1 - 1e-12))


@dataclass(frozen=True, slots=True)
class Said:
    """Generated tokens (the end of the answer included) with their log-probabilities."""

    ids: list[int]
    logprobs: list[float]
    finish: str | None


class VllmClient:
    """One vLLM server. `concurrency` bounds the connections; more requests wait for one."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 256,
        seconds: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.spare: Spare | None = None
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Idle connections are given up before the server does it (after 5 s), or a request might meet a closed one.
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=2.0)
        timeout = httpx.Timeout(seconds, pool=None)
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=headers, limits=limits, timeout=timeout, transport=transport
        )

    async def models(self) -> list[dict[str, Any]]:
        """What the server says it serves."""
        answer = await self._ask("GET", "/v1/models")
        models: list[dict[str, Any]] = answer["data"]
        return models

    async def metric(self, name: str) -> float:
        """Sum of a Prometheus counter over its labels; 0 if there is none."""
        try:
            answer = await self._http.get("/metrics")
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        lines = (line for line in answer.text.splitlines() if line.startswith((name + "{", name + " ")))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def complete(self, request: dict[str, Any]) -> Said:
        """One completion."""
        answer = await self._ask("POST", "/v1/completions", request | self._telling)
        return self._said(answer["choices"][0])

    async def stream(self, request: dict[str, Any]) -> AsyncGenerator[Said, None]:
        """One completion as it comes; closing the generator ends it on the server."""
        body = request | self._telling | {"stream": True}
        try:
            async with self._http.stream("POST", "/v1/completions", json=body) as answer:
                if answer.status_code != 200:
                    _refuse(answer.status_code, self.url)
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    if not line.startswith("data:") or data == "[DONE]":
                        continue
                    content = json.loads(data)
                    if "error" in content:
                        raise EngineClosed(f"the vLLM server at {self.url} failed while answering; see its log.")
                    yield self._said(content["choices"][0])
        except httpx.HTTPError as error:
            raise self._gone(error) from None

    async def next_logprobs(self, request: dict[str, Any], wanted: list[int]) -> dict[int, float]:
        """Log-probabilities of the wanted tokens as the first one of the answer."""
        found: dict[int, float] = {}
        for begin in range(0, len(wanted), MOST_WANTED - 1):
            part = wanted[begin : begin + MOST_WANTED - 1]
            part = part if self.spare is None or self.spare.token in part else [*part, self.spare.token]
            body = {"max_tokens": 1, "temperature": 0, "logprobs": len(part), "logprob_token_ids": part}
            answer = await self._ask("POST", "/v1/completions", request | body | {"return_tokens_as_token_ids": True})
            top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
            plain = {int(key.removeprefix("token_id:")): float(value) for key, value in top.items()}
            found |= {key: self.spare.without(value, top) if self.spare else value for key, value in plain.items()}
        return found

    async def reload(self) -> None:
        """Read the weights anew and forget cached prefixes; only a server in development mode does it.

        Answers under way are begun again inside the server (none is lost): while they hold parts of the cache, vLLM
        would keep all of it, and a task whose rows were another's before would be read as that other one.
        """
        await self._ask("POST", "/collective_rpc", {"method": "reload_weights"})
        done = await self._ask("POST", "/reset_prefix_cache?reset_running_requests=true")
        if done is not None and not done.get("success", True):
            raise EngineClosed(
                f"the vLLM server at {self.url} does not forget what it read of former tasks. Start it again."
            )

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(self, verb: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = await self._twice(verb, path, body)
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        if answer.status_code != 200:
            _refuse(answer.status_code, self.url)
        return answer.json() if answer.content else None

    @property
    def _telling(self) -> dict[str, Any]:
        """Options that make an answer come as token ids with log-probabilities."""
        plain = {"return_token_ids": True, "return_tokens_as_token_ids": True}
        if self.spare is None:
            return plain | {"logprobs": 0}
        return plain | {"logprobs": 1, "logprob_token_ids": [self.spare.token]}

    def _said(self, choice: dict[str, Any]) -> Said:
        told = choice.get("logprobs") or {}
        values = [float(value) for value in told.get("token_logprobs") or []]
        if self.spare is not None:
            tops = told.get("top_logprobs") or []
            values = [self.spare.without(value, top) for value, top in zip(values, tops, strict=True)]
        return Said(list(choice.get("token_ids") or []), values, choice.get("finish_reason"))

    async def _twice(self, verb: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Once more if the connection broke: asking again changes nothing, and greedy answers are the same."""
        try:
            return await self._http.request(verb, path, json=body)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            return await self._http.request(verb, path, json=body)

    def _gone(self, error: httpx.HTTPError) -> EngineClosed:
        return EngineClosed(f"the vLLM server at {self.url} does not answer ({type(error).__name__}).")


def _refuse(status: int, url: str) -> NoReturn:
    if status in (429, 503):
        raise EngineBusy()
    if status in (400, 413, 422):
        raise TaskError(
            f"the vLLM server refused a request (status {status}): it is too long for its context, samples with a "
            "setting it does not take (a temperature above 2), or is guided by a grammar its backend cannot read."
        )
    if status in (401, 403):
        raise EngineClosed(f"the vLLM server at {url} wants an API key.")
    raise EngineClosed(f"the vLLM server at {url} answered with status {status}.")
