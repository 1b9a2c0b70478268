"""Plays `python -m vllm.entrypoints.openai.api_server`: answers every question with the end of the answer.

FAKE_VLLM_RECORD names the file for its arguments, key and process ids; FAKE_VLLM its character: `dies`, `silent`,
`stubborn` (SIGTERM does not end it) or none. Like vLLM it has a process of its own that does the work.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

END = 2  # of the tiny models


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/health":
            return self._say(200, {})
        self._say(200, {"data": [{"id": "model", "root": self.server.model, "max_model_len": 1024}]})  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        if not self.path.startswith("/v1"):
            return self._say(200, {"success": True})
        if self.headers["Authorization"] != f"Bearer {os.environ.get('VLLM_API_KEY')}":
            return self._say(401, {})
        vocabulary = json.loads(Path(self.server.model, "config.json").read_text())["vocab_size"]  # type: ignore[attr-defined]
        if max(body["prompt"]) >= vocabulary:
            return self._say(400, {})
        top = {f"token_id:{index}": -9.0 for index in [END, *body["logprob_token_ids"]]}
        told = {"token_logprobs": [-0.5], "top_logprobs": [top]}
        self._say(200, {"choices": [{"token_ids": [END], "logprobs": told, "finish_reason": "stop"}]})

    def _say(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def main(arguments: list[str]) -> None:
    character = os.environ.get("FAKE_VLLM", "")
    if character == "stubborn":
        signal.signal(signal.SIGTERM, lambda *_: print("not now", flush=True))
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record = {"arguments": arguments, "key": os.environ.get("VLLM_API_KEY"), "ids": [os.getpid(), worker.pid]}
    partial = Path(os.environ["FAKE_VLLM_RECORD"] + ".partial")
    partial.write_text(json.dumps(record))
    partial.replace(os.environ["FAKE_VLLM_RECORD"])
    print("loading weights", flush=True)
    if character == "dies":
        sys.exit("ValueError: not enough memory for the cache")
    if character == "silent":
        time.sleep(600)
    server = ThreadingHTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Handler)
    server.model = arguments[arguments.index("--model") + 1]  # type: ignore[attr-defined]
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
