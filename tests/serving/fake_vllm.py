"""The part of vLLM's HTTP interface that we use, answered by Transformers on a baked folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM


class FakeVllm(httpx.AsyncBaseTransport):
    """`asked`: every request. `fails`: statuses (or exceptions) to answer with first. `hold`: answers wait for it.
    `forgets`: whether it resets its prefix cache when it is told to. `started`: when, as it tells in its metrics."""

    def __init__(self, folder: Path, *, longest: int = 1024) -> None:
        self.folder, self.longest = folder, longest
        self.asked: list[tuple[str, Any]] = []
        self.fails: list[int | Exception] = []
        self.hold: asyncio.Event | None = None
        self.forgets = True
        self.started: float | None = None
        self.load()

    def load(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype="auto")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.url.path, body))
        if self.fails:
            failure = self.fails.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(failure, json={"error": {"message": f"quotes {body}"}})
        if self.hold and request.url.path == "/v1/completions":
            await self.hold.wait()
        match request.url.path:
            case "/v1/models":
                model = {"id": "baked", "root": str(self.folder), "max_model_len": self.longest}
                return httpx.Response(200, json={"data": [model]})
            case "/v1/completions":
                return self._complete(body)
            case "/metrics" if self.started is not None:
                return httpx.Response(200, text=f"# TYPE a gauge\nprocess_start_time_seconds {self.started}\n")
            case "/collective_rpc" if body == {"method": "reload_weights"}:
                self.load()
                return httpx.Response(200)
            case "/reset_prefix_cache" if request.url.query == b"reset_running_requests=true":
                return httpx.Response(200, json={"success": self.forgets})
        return httpx.Response(404)

    def _complete(self, body: dict[str, Any]) -> httpx.Response:
        prompt, wanted = body["prompt"], body.get("logprob_token_ids")
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(prompt) + body["max_tokens"] > self.longest or max(prompt) >= rows:
            return httpx.Response(400, json={"error": {"message": f"too long: {prompt}"}})
        assert body["logprobs"] == len(wanted) and body["return_tokens_as_token_ids"]
        ids, rows_, finish = self._greedy(prompt, body["max_tokens"])
        tops = [
            {f"token_id:{index}": float(values[index]) for index in [*wanted, token]}
            for token, values in zip(ids, rows_, strict=True)
        ]
        logprobs = [float(values[token]) for token, values in zip(ids, rows_, strict=True)]
        choice = {
            "token_ids": ids,
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": tops},
            "finish_reason": finish,
        }
        if not body.get("stream"):
            return _json([choice])
        parts = [
            {
                "token_ids": [ids[i]],
                "logprobs": {"token_logprobs": [logprobs[i]], "top_logprobs": [tops[i]]},
                "finish_reason": finish if i == len(ids) - 1 else None,
            }
            for i in range(len(ids))
        ]
        lines = "".join(f"data: {json.dumps({'choices': [part]})}\n\n" for part in parts) + "data: [DONE]\n\n"
        return httpx.Response(200, content=_streamed(lines))

    def _greedy(self, prompt: list[int], limit: int) -> tuple[list[int], list[torch.Tensor], str]:
        ids: list[int] = list(prompt)
        logprobs: list[torch.Tensor] = []
        for _ in range(limit):
            with torch.inference_mode():
                values = self.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
            ids.append(int(values.argmax()))
            logprobs.append(values)
            if ids[-1] == 2:
                return ids[len(prompt) :], logprobs, "stop"
        return ids[len(prompt) :], logprobs, "length"


def _json(choices: list[dict[str, Any]]) -> httpx.Response:
    return httpx.Response(200, json={"choices": choices})


async def _streamed(text: str) -> AsyncIterator[bytes]:
    for line in text.splitlines(keepends=True):
        yield line.encode()
