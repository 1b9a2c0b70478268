"""Soak of the server: mixed, malformed and oversized requests and clients that leave, for some minutes.

    python benchmarks/serving_soak.py --tasks DIR --minutes 30 --out soak.json

Starts `clinprompt serve` on a free port. Every answer is compared with the one that offline prediction gives; the
server's memory is read once a second, and its median over the last quarter is compared with that over the second one
(the first is warm-up). Ends with 1 if an answer differs, a defect is counted, or memory grew by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.evaluation.answer_line import answer_line
from clinprompt.evaluation.predict import predict_task
from clinprompt.prompts.artifact import TaskPrompt, load_task
from clinprompt.records import Record
from clinprompt.serving.documents import record_of
from clinprompt.serving.schemas import Document

GROWTH = 0.05


@dataclass
class Soak:
    """What came out so far."""

    address: str
    until: float
    expected: dict[tuple[str, int], dict[str, Any]]
    documents: list[dict[str, Any]]
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, status: object) -> None:
        with self.lock:
            self.statuses[f"{kind} {status}"] += 1


def answer_only(line: dict[str, Any]) -> dict[str, Any]:
    """An answer without what rounding may change or the server adds."""
    kept = {k: v for k, v in line.items() if k not in ("confidence", "probabilities", "id", "task")}
    for key in ("entities", "relations", "ungrounded"):
        if key in kept:
            kept[key] = [{k: v for k, v in item.items() if k != "confidence"} for item in kept[key]]
    return {k: v for k, v in kept.items() if v not in (None, [])}


def offline(backbone: Backbone, files: dict[str, TaskPrompt], documents: list[dict[str, Any]]) -> dict[Any, Any]:
    """The answers that `clinprompt predict` gives, by task and document."""
    records: list[Record] = [record_of(0, Document(**document)) for document in documents]
    found = {}
    for name, file in files.items():
        for number, prediction in enumerate(predict_task(backbone, file, records)):
            line = json.loads(json.dumps(answer_line(file.task, prediction)))
            found[name, number] = answer_only(line)
    return found


def client(soak: Soak, seed: int) -> None:
    """One client that does all kinds of things until the time is over."""
    chance = random.Random(seed)
    names = sorted({name for name, _ in soak.expected})
    with httpx.Client(base_url=soak.address, timeout=120) as http:
        while time.monotonic() < soak.until:
            kind = chance.choices(("right", "malformed", "oversized", "leaving"), (8, 1, 0.3, 1))[0]
            ACTIONS[kind](soak, http, chance, names)


def right(soak: Soak, http: httpx.Client, chance: random.Random, names: list[str]) -> None:
    tasks = chance.sample(names, chance.randint(1, min(3, len(names))))
    numbers = [chance.randrange(len(soak.documents)) for _ in range(chance.randint(1, 4))]
    body = {"documents": [soak.documents[number] for number in numbers]}
    answer = http.post(f"/v1/tasks/{','.join(tasks)}/predict", json=body)
    soak.count("right", answer.status_code)
    if answer.status_code == 200:
        pairs = [(task, number) for number in numbers for task in tasks]
        for (task, number), got in zip(pairs, answer.json()["answers"], strict=True):
            if answer_only(got) != soak.expected[task, number]:
                soak.wrong.append(f"{task} {number}")


def malformed(soak: Soak, http: httpx.Client, chance: random.Random, names: list[str]) -> None:
    content = chance.choice([b"{", b"\xff", b'{"documents": 3}', b'{"documents": [{"tex": "x"}]}', b"[" * 5000])
    headers = {"Content-Type": "application/json"}
    found = http.post(f"/v1/tasks/{chance.choice(names)}/predict", content=content, headers=headers)
    soak.count("malformed", found.status_code)


def oversized(soak: Soak, http: httpx.Client, chance: random.Random, names: list[str]) -> None:
    found = http.post(f"/v1/tasks/{chance.choice(names)}/predict", json={"documents": ["word " * 2_000_000]})
    soak.count("oversized", found.status_code)


def leaving(soak: Soak, http: httpx.Client, chance: random.Random, names: list[str]) -> None:
    body = {"documents": [chance.choice(soak.documents) for _ in range(8)]}
    try:
        patience = chance.uniform(0.01, 0.3)
        found = http.post(f"/v1/tasks/{chance.choice(names)}/predict", json=body, timeout=patience)
        soak.count("leaving", found.status_code)
    except httpx.TimeoutException:
        soak.count("leaving", "left")


ACTIONS = {"right": right, "malformed": malformed, "oversized": oversized, "leaving": leaving}


def notes(count: int) -> list[dict[str, Any]]:
    """Synthetic documents that every task type can be asked about."""
    documents = []
    for number in range(count):
        text = " ".join(f"Case {number}.{i}: she has gout and takes aspirin {i} mg." for i in range(1 + number % 7))
        entities = [
            {"id": word, "type": kind, "spans": [[text.index(word), text.index(word) + len(word)]]}
            for word, kind in (("gout", "Problem"), ("aspirin", "Drug"))
        ]
        options = ["aspirin", "ibuprofen", "nothing"]
        fields = {"hypothesis": "She has gout.", "question": "What does she take?", "options": options}
        documents.append({"text": text, "entities": entities, **fields})
    return documents


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
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


def run(tasks: Path, minutes: float, clients: int, log: Path) -> dict[str, Any]:
    files = {path.stem: load_task(path) for path in sorted(tasks.glob("*.safetensors"))}
    backbone = load_backbone(next(iter(files.values())).card.backbone.name)
    documents = notes(24)
    expected = offline(backbone, files, documents)
    port = free_port()
    command = [sys.executable, "-m", "clinprompt", "serve", "--tasks", str(tasks), "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ})
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(address, process)
            soak = Soak(address, time.monotonic() + 60 * minutes, expected, documents)
            threads = [threading.Thread(target=client, args=(soak, seed)) for seed in range(clients)]
            for thread in threads:
                thread.start()
            memory = watch_memory(process, soak.until)
            for thread in threads:
                thread.join()
            metrics = httpx.get(f"{address}/metrics").text
        finally:
            process.terminate()
            process.wait(timeout=180)
    return summary(soak, memory, metrics, minutes)


def summary(soak: Soak, memory: list[int], metrics: str, minutes: float) -> dict[str, Any]:
    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[quarter : 2 * quarter] or memory), statistics.median(memory[-quarter:])
    return {
        "minutes": minutes,
        "requests": dict(sorted(soak.statuses.items())),
        "wrong": len(soak.wrong),
        "wrong_first": soak.wrong[:5],
        "memory_mb": [round(early / 1e6, 1), round(late / 1e6, 1)],
        "memory_growth": round(late / early - 1, 4),
        "defects": int(float(metrics.split("\nclinprompt_defects_total ")[1].split("\n")[0])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = run(given.tasks, given.minutes, given.clients, given.out.with_suffix(".log"))
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    if found["wrong"] or found["defects"] or found["memory_growth"] > GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
