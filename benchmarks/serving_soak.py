"""Soak of the server: mixed, malformed and oversized requests, clients that leave, and schemathesis, for some minutes.

    python -m benchmarks.serving_soak --minutes 30 --out benchmarks/results/serving-soak.json

Starts `clinprompt serve` on a free port and answers seven tasks of all types (or those of `--tasks`). Every answer is
compared with the one that offline prediction gives; every status with those that are right for what was sent. Resident
memory of the server is read once a second: its median over the last quarter is compared with that over the second one
(the first is warm-up). Beside the clients schemathesis reads the API's description and sends what it makes of it, round
after round. Ends with 1 if an answer or a status is wrong, a client met something unexpected, a defect was counted,
schemathesis found anything, a slot was not given back, or memory grew by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import machine, soak_clients
from benchmarks.serving_tasks import packaged_tasks
from benchmarks.soak_clients import Soak
from benchmarks.soak_summary import gauges, summary
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.evaluation.answer_line import answer_line
from clinprompt.evaluation.predict import predict_task
from clinprompt.prompts.artifact import TaskPrompt, load_task
from clinprompt.records import Record
from clinprompt.serving.documents import record_of
from clinprompt.serving.schemas import Document
from clinprompt.serving.vllm_server import free_port

TASKS = ("ncbi-disease", "bc5cdr", "cdr-cid", "pubmedqa", "medqa", "mediqa-rqe", "meqsum")
# Answers that are right by the schema and still refused: documents that a task cannot be asked about.
EXCLUDED = "positive_data_acceptance"
# Seconds for one request: a machine that does other work besides is slow, and that is not the question.
PATIENCE = 600


def offline(backbone: Backbone, files: dict[str, TaskPrompt], documents: list[dict[str, Any]]) -> dict[Any, Any]:
    """The answers that `clinprompt predict` gives, by task and document."""
    records: list[Record] = [record_of(0, Document(**document)) for document in documents]
    found = {}
    for name, file in files.items():
        for number, prediction in enumerate(predict_task(backbone, file, records)):
            line = json.loads(json.dumps(answer_line(file.task, prediction)))
            found[name, number] = soak_clients.answer_only(line)
    return found


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{address}/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("the server did not start; see its log")


def watch_memory(process: subprocess.Popen[bytes], until: float) -> list[int]:
    """Resident bytes of the server, once a second."""
    seen, own = [], psutil.Process(process.pid)
    while time.monotonic() < until:
        seen.append(own.memory_info().rss)
        time.sleep(1)
    return seen


def fuzz(soak: Soak, place: Path, rate: int) -> list[dict[str, Any]]:
    """Rounds of schemathesis until the time is over; every second one asks tasks that exist by name."""
    place.mkdir(parents=True, exist_ok=True)
    named = place / "schemathesis.toml"
    names = sorted({name for name, _ in soak.expected})
    rounds: list[dict[str, Any]] = []
    while (left := soak.until - time.monotonic()) > 20:
        known = names[len(rounds) % len(names)]
        named.write_text(f'[parameters]\n"path.names" = "{known}"\n"path.name" = "{known}"\n', encoding="utf-8")
        config = ["--config-file", str(named)] if len(rounds) % 2 else []
        report = place / f"round-{len(rounds)}.json"
        options = [
            *("--max-time", str(int(min(300, left - 10))), "--rate-limit", f"{rate}/m", "--seed", str(len(rounds))),
            *("--request-timeout", str(PATIENCE + 30), "--exclude-checks", EXCLUDED, "--no-color"),
            *("--report", "json", "--report-json-path", str(report)),
        ]
        tool = Path(sys.executable).parent / "schemathesis"
        with (place / f"round-{len(rounds)}.log").open("wb") as log:
            command: list[str | Path] = [tool, *config, "run", f"{soak.address}/openapi.json", *options]
            done = subprocess.run(command, cwd=place, stdout=log, stderr=subprocess.STDOUT, check=False)
        rounds.append(_round(done.returncode, report, place / f"round-{len(rounds)}.log"))
    return rounds


def _round(code: int, report: Path, log: Path) -> dict[str, Any]:
    """What one round found; the requests that show a failure stand only in its log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    failures = [{"title": one["title"], "operations": one["operations"]} for one in found.get("failures", [])]
    return {
        "exit_code": code,
        "cases": found.get("test_cases", {}).get("generated", 0),
        "failures": failures,
        "reproduce": [line.strip() for line in lines if line.strip().startswith("curl ")],
        "errors": [str(error)[:500] for error in found.get("errors", [])],
    }


def emptied(address: str, seconds: float = 60.0) -> dict[str, int]:
    """Questions the server still holds when all clients are gone; waits a while for it to notice that they are."""
    until = time.monotonic() + seconds
    held = gauges(httpx.get(f"{address}/metrics").text)
    while any(held.values()) and time.monotonic() < until:
        time.sleep(0.5)
        held = gauges(httpx.get(f"{address}/metrics").text)
    return held


def run(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    if given.tasks is None:
        files = packaged_tasks(load_backbone("embedded"), place / "tasks", TASKS)
    else:
        files = {path.stem: load_task(path) for path in sorted(given.tasks.glob("*.safetensors"))}
    backbone = load_backbone(next(iter(files.values())).card.backbone.name)
    documents = soak_clients.notes(24)
    expected = offline(backbone, files, documents)
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "clinprompt", "serve", "--tasks", str(given.tasks or place / "tasks")]
    command += ["--port", str(port), "--fixed", "--no-teach", "--max-queue", "512"]
    command += ["--timeout", str(PATIENCE)]
    with given.out.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until_ready(address, process)
            soak = Soak(address, time.monotonic() + 60 * given.minutes, expected, documents, given.pause)
            rounds: list[dict[str, Any]] = []
            work = [threading.Thread(target=soak_clients.client, args=(soak, seed)) for seed in range(given.clients)]
            work.append(threading.Thread(target=lambda: rounds.extend(fuzz(soak, place / "fuzz", given.fuzz_rate))))
            for thread in work:
                thread.start()
            memory = watch_memory(process, soak.until)
            for thread in work:
                thread.join()
            held = emptied(address)
            metrics = httpx.get(f"{address}/metrics").text
        finally:
            process.terminate()
            process.wait(timeout=180)
    about = {"machine": machine.describe("cpu", "float32"), "minutes": given.minutes, "clients": given.clients}
    return about | {"tasks": sorted(files)} | summary(soak, memory, metrics, held, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, help="folder of task files (default: seven of the packaged metaprompt)")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds between a client's requests")
    parser.add_argument("--fuzz-rate", type=int, default=120, help="requests of schemathesis a minute")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        found = run(given, Path(place))
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    if found["problems"]:
        raise SystemExit("; ".join(found["problems"]))


if __name__ == "__main__":
    main()
