"""The clients of the soak: what they send, and what is right to come back."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

CLOSED = "closed"  # the server refused a body and closed the connection while it was still being sent


@dataclass
class Soak:
    """What came out so far. `expected`: offline answers by task and document."""

    address: str
    until: float
    expected: dict[tuple[str, int], dict[str, Any]]
    documents: list[dict[str, Any]]
    pause: float = 0.5
    statuses: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, status: object, right: tuple[object, ...]) -> None:
        """Count an outcome; one that is not right for what was sent is kept apart."""
        with self.lock:
            self.statuses[f"{kind} {status}"] += 1
            if status not in right:
                self.unexpected.append(f"{kind}: {status}")

    @property
    def names(self) -> list[str]:
        return sorted({name for name, _ in self.expected})


def answer_only(line: dict[str, Any]) -> dict[str, Any]:
    """An answer without what rounding may change or the server adds."""
    kept = {k: v for k, v in line.items() if k not in ("confidence", "probabilities", "id", "task")}
    for key in ("entities", "relations", "ungrounded"):
        if key in kept:
            kept[key] = [{k: v for k, v in item.items() if k != "confidence"} for item in kept[key]]
    return {k: v for k, v in kept.items() if v not in (None, [])}


def client(soak: Soak, seed: int) -> None:
    """One client that does all kinds of things until the time is over."""
    chance = random.Random(seed)
    kinds, weights = list(ACTIONS), [8, 1, 0.5, 1, 0.5]
    with httpx.Client(base_url=soak.address, timeout=650) as http:
        while time.monotonic() < soak.until:
            kind = chance.choices(kinds, weights)[0]
            try:
                ACTIONS[kind](soak, http, chance)
            except Exception as error:  # counted, and the run fails by it; the others go on
                soak.count(kind, type(error).__name__, ())
            time.sleep(min(chance.expovariate(1 / soak.pause), 10 * soak.pause))


def right(soak: Soak, http: httpx.Client, chance: random.Random) -> None:
    """One to three tasks over one to four documents; every answer is compared. A full queue may refuse."""
    tasks = chance.sample(soak.names, chance.randint(1, min(3, len(soak.names))))
    numbers = [chance.randrange(len(soak.documents)) for _ in range(chance.randint(1, 4))]
    body = {"documents": [soak.documents[number] for number in numbers]}
    began = time.monotonic()
    answer = http.post(f"/v1/tasks/{','.join(tasks)}/predict", json=body)
    soak.count("right", answer.status_code, (200, 429))
    if answer.status_code != 200:
        return
    pairs = [(task, number) for number in numbers for task in tasks]
    got = [answer_only(line) for line in answer.json()["answers"]]
    with soak.lock:
        soak.seconds.append(time.monotonic() - began)
        soak.compared += len(pairs)
        soak.wrong += [
            f"{task} {number}"
            for (task, number), one in zip(pairs, got, strict=True)
            if one != soak.expected[task, number]
        ]


def malformed(soak: Soak, http: httpx.Client, chance: random.Random) -> None:
    contents = [
        b"{",
        b"\xff",
        b'{"documents": 3}',
        b'{"documents": [{"tex": "x"}]}',
        b"[" * 5000,
        b'{"documents": [""]',
    ]
    address = chance.choice([f"/v1/tasks/{chance.choice(soak.names)}/predict", "/v1/chat/completions"])
    headers = {"Content-Type": chance.choice(["application/json", "text/plain"])}
    found = http.post(address, content=chance.choice(contents), headers=headers)
    soak.count("malformed", found.status_code, (400, 415, 422))


def oversized(soak: Soak, http: httpx.Client, chance: random.Random) -> None:
    """A body that is too large (said or not said in advance), too many documents, a document that is too long."""
    contents: list[Callable[[], dict[str, Any]]] = [
        lambda: {"json": {"documents": ["word " * 1_000_000]}},
        lambda: {"content": _parts(b"word " * 20_000, 50), "headers": {"Content-Type": "application/json"}},
        lambda: {"json": {"documents": ["She is well."] * 65}},
        lambda: {"json": {"documents": [soak.documents[0] | {"text": soak.documents[0]["text"] + " gout" * 70_000}]}},
    ]
    which = chance.randrange(len(contents))
    try:
        found = http.post(f"/v1/tasks/{chance.choice(soak.names)}/predict", **contents[which]())
        soak.count("oversized", found.status_code, (413,))
    except httpx.NetworkError:
        soak.count("oversized", CLOSED, (CLOSED,) if which < 2 else ())


def _parts(part: bytes, count: int) -> Iterator[bytes]:
    yield b'{"documents": ["'
    for _ in range(count):
        yield part


def leaving(soak: Soak, http: httpx.Client, chance: random.Random) -> None:
    """A client that does not wait for its answer."""
    body = {"documents": [chance.choice(soak.documents) for _ in range(8)]}
    try:
        patience = chance.uniform(0.01, 0.3)
        found = http.post(f"/v1/tasks/{chance.choice(soak.names)}/predict", json=body, timeout=patience)
        soak.count("leaving", found.status_code, (200, 429))
    except httpx.TimeoutException:
        soak.count("leaving", "left", ("left",))


def streaming(soak: Soak, http: httpx.Client, chance: random.Random) -> None:
    """A client of OpenAI's API that reads a few pieces of a stream, and leaves or stays."""
    body = {"model": chance.choice(soak.names), "prompt": "She has gout and", "max_tokens": 60, "stream": True}
    pieces = chance.randint(1, 90)
    with http.stream("POST", "/v1/completions", json=body) as found:
        if found.status_code == 200:
            for count, _ in enumerate(found.iter_lines()):
                if count > pieces:
                    break
        soak.count("streaming", found.status_code, (200, 429))


ACTIONS: dict[str, Callable[[Soak, httpx.Client, random.Random], None]] = {
    "right": right,
    "malformed": malformed,
    "oversized": oversized,
    "leaving": leaving,
    "streaming": streaming,
}


def notes(count: int) -> list[dict[str, Any]]:
    """Synthetic documents that every task type can be asked about."""
    documents = []
    for number in range(count):
        text = " ".join(f"Case {number}.{i}: she has gout and takes aspirin {i} mg." for i in range(1 + number % 7))
        entities = [
            {"id": word, "type": kind, "spans": [[text.index(word), text.index(word) + len(word)]]}
            for word, kind in (("gout", "Disease"), ("aspirin", "Chemical"))
        ]
        options = ["aspirin", "ibuprofen", "nothing"]
        fields = {"hypothesis": "She has gout.", "question": "What does she take?", "options": options}
        documents.append({"text": text, "entities": entities, **fields})
    return documents
