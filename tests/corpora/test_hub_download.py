"""Downloads from a stand-in for the hub on this machine: pins, checksums, the list beside the files, licences."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from clinprompt.corpora import catalog
from clinprompt.corpora.catalog import CatalogEntry
from clinprompt.corpora.hub_download import MANIFEST, fetch_hub, hub_problems, known_files
from clinprompt.errors import ConsentError, CorpusError, DataMissingError

ENTRY = catalog.catalog_entry("glue-rte")
assert ENTRY.hub is not None
REVISION = ENTRY.hub.revision
TRAIN, TEST = "rte/train-00000-of-00001.parquet", "rte/validation-00000-of-00001.parquet"


@dataclass
class Hub:
    """The files of one revision; what the API lists may be told to differ from what is served."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    not_large: bool = False
    body: bytes | None = None
    withheld: str = ""

    def answer(self, path: str) -> bytes | None:
        base = f"/api/datasets/{ENTRY.hub.repository}" if ENTRY.hub else ""
        if path.startswith(f"{base}/tree/{REVISION}/"):
            folder = path.removeprefix(f"{base}/tree/{REVISION}/")
            listed = [self._item(name) for name in self.files if name.startswith(folder + "/")]
            return json.dumps([{"type": "directory", "path": folder, "size": 0, "oid": "x"}, *listed]).encode()
        resolve = f"{base.replace('/api', '')}/resolve/{REVISION}/"
        return self.files.get(path.removeprefix(resolve)) if path.startswith(resolve) else None

    def _item(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        item = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return item if self.not_large else item | {"lfs": lfs}


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            served.requests.append(path)
            body = served.body if served.body is not None else served.answer(path)
            body = None if served.withheld and path.endswith(served.withheld) else body
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    served.files = {TRAIN: b"train" * 9, TEST: b"test" * 9, "rte/test-00000-of-00001.parquet": b"x", "cola/a.md": b"y"}
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def get(hub: Hub, folder: Path, entry: CatalogEntry = ENTRY, consent: bool = True) -> tuple[int, int]:
    return fetch_hub(entry, folder, consent=consent, host=hub.address, pause=0)


def test_parts_come_checked_and_once(hub: Hub, tmp_path: Path) -> None:
    assert ENTRY.hub is not None
    assert get(hub, tmp_path) == (2, 45 + 36)
    assert (tmp_path / TRAIN).read_bytes() == hub.files[TRAIN]
    assert not (tmp_path / "rte" / "test-00000-of-00001.parquet").exists(), "hidden labels are of no use"
    assert set(known_files(tmp_path, ENTRY.hub)) == {TRAIN, TEST} and hub_problems(tmp_path, ENTRY.hub) == ([], True)
    hub.requests.clear()
    assert get(hub, tmp_path, consent=False) == (0, 0) and not hub.requests


def test_a_damaged_file_is_found_and_brought_again(hub: Hub, tmp_path: Path) -> None:
    assert ENTRY.hub is not None
    get(hub, tmp_path)
    (tmp_path / TEST).write_bytes(b"other")
    assert hub_problems(tmp_path, ENTRY.hub) == ([f"{TEST}: damaged: checksum differs"], True)
    assert get(hub, tmp_path) == (1, 36)
    (tmp_path / TRAIN).unlink()
    assert hub_problems(tmp_path, ENTRY.hub) == ([f"{TRAIN}: missing"], True)
    assert get(hub, tmp_path) == (1, 45)


def test_an_interrupted_download_is_not_taken_for_a_whole_one(hub: Hub, tmp_path: Path) -> None:
    """Two shards are listed, the second is not served: the next call asks for it again, and only for it."""
    assert ENTRY.hub is not None
    shards = [f"rte/train-0000{n}-of-00002.parquet" for n in (0, 1)]
    hub.files = {TEST: hub.files[TEST], shards[0]: b"one", shards[1]: b"two"}
    hub.withheld = shards[1]
    with pytest.raises(DataMissingError, match="the server answers 404"):
        get(hub, tmp_path)
    assert (tmp_path / shards[0]).is_file() and f"{shards[1]}: missing" in hub_problems(tmp_path, ENTRY.hub)[0]
    hub.withheld = ""
    assert get(hub, tmp_path) == (2, 3 + 36)


def test_files_brought_from_another_revision_are_replaced(hub: Hub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    kept = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    (tmp_path / MANIFEST).write_text(json.dumps(kept | {"revision": "1" * 40}), encoding="utf-8")
    hub.files[TEST] = b"new" * 5
    assert get(hub, tmp_path) == (1, 15)
    assert json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))["revision"] == REVISION


def test_tasks_of_one_repository_share_the_list(hub: Hub, tmp_path: Path) -> None:
    other = catalog.catalog_entry("glue-cola")
    hub.files |= {f"cola/{name}-00000-of-00001.parquet": name.encode() for name in ("train", "validation")}
    get(hub, tmp_path)
    get(hub, tmp_path, other)
    assert ENTRY.hub is not None and other.hub is not None
    assert len(known_files(tmp_path, ENTRY.hub)) == len(known_files(tmp_path, other.hub)) == 2


def test_a_copy_by_hand_is_used_as_it_is(hub: Hub, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / "rte").mkdir(exist_ok=True)
        (tmp_path / "rte" / f"{name}.jsonl").write_text("{}", encoding="utf-8")
    assert get(hub, tmp_path) == (0, 0) and not hub.requests


def test_the_licence_is_asked_for_before_anything_is_asked_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match=r"huggingface.co/datasets/nyu-mll/glue.*data get glue-rte --accept-licence"):
        get(hub, tmp_path, consent=False)
    assert not hub.requests


def test_what_the_hub_may_answer_instead(hub: Hub, tmp_path: Path) -> None:
    hub.not_large = True
    with pytest.raises(DataMissingError, match="lists no parquet files of rte/train"):
        get(hub, tmp_path)
    hub.not_large, hub.body = False, b"<html>"
    with pytest.raises(DataMissingError, match="the answer is not JSON"):
        get(hub, tmp_path)
    hub.body = None
    wrong = ENTRY.hub.model_copy(update={"revision": "2" * 40}) if ENTRY.hub else None
    with pytest.raises(DataMissingError, match=r"the server answers 404.*<data folder>/glue/"):
        get(hub, tmp_path, ENTRY.model_copy(update={"hub": wrong}))
    hub.address = "http://127.0.0.1:9"
    with pytest.raises(DataMissingError, match="no connection"):
        get(hub, tmp_path)


def test_a_damaged_list_is_an_error_with_a_cure(hub: Hub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(CorpusError, match="Remove it"):
        get(hub, tmp_path)
    assert ENTRY.hub is not None
    (problem,), checksums = hub_problems(tmp_path, ENTRY.hub)
    assert "Remove it" in problem and not checksums
