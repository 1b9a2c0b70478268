"""Downloads against a server on this machine: resume, interruption, wrong files, licences."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from clinprompt.corpora import catalog, download
from clinprompt.corpora.catalog import CatalogEntry, PublicFile, Source
from clinprompt.errors import ConsentError, DataMissingError
from clinprompt.tasks.definition import parse_task

REVISION = "0123456789abcdef0123456789abcdef01234567"
SMALL, LARGE = b"one\n", bytes(range(256)) * 2000


@dataclass
class Host:
    """A raw file host: what it serves, what was asked of it, and how it misbehaves."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    break_after: int | None = None  # the next answer stops after so many bytes
    ignore_ranges: bool = False
    status: int | None = None


def _handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            host.requests.append((self.path, wanted))
            content = host.files.get(self.path)
            if host.status is not None or content is None:
                self.send_error(host.status or 404)
                return
            start = 0
            if wanted and not host.ignore_ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if host.break_after is not None:
                body, host.break_after = body[: host.break_after], None
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def host() -> Iterator[Host]:
    served = Host()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    served.files = {f"/some/corpus/{REVISION}/a%20b/small.txt": SMALL, f"/some/corpus/{REVISION}/large.bin": LARGE}
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def entry(permissive: bool = True) -> CatalogEntry:
    def public(path: str, upstream: str, content: bytes) -> PublicFile:
        sha256 = hashlib.sha256(content).hexdigest()
        return PublicFile(path=path, upstream=upstream, bytes=len(content), sha256=sha256)

    files = (public("text/small.txt", "a b/small.txt", SMALL), public("large.bin", "large.bin", LARGE))
    return CatalogEntry(
        id="small-corpus",
        title="A corpus made for this test",
        role="source",
        licence="CC BY 4.0" if permissive else "CC BY-NC-ND 4.0",
        permissive=permissive,
        reference="",
        note="",
        loader="none",
        task=parse_task({"name": "small-corpus", "type": "summarization"}),
        expected={},
        sources=(Source(repository="some/corpus", revision=REVISION, files=files),),
    )


def test_files_arrive_whole_and_only_once(host: Host, tmp_path: Path) -> None:
    settled: list[int] = []
    first = download.fetch(entry(), tmp_path, host=host.address, progress=settled.append)
    assert first == (2, len(SMALL) + len(LARGE))
    assert (tmp_path / "text" / "small.txt").read_bytes() == SMALL
    assert (tmp_path / "large.bin").read_bytes() == LARGE
    assert sum(settled) == len(SMALL) + len(LARGE)
    assert not list(tmp_path.rglob("*.part"))
    asked = len(host.requests)
    settled.clear()
    assert download.fetch(entry(), tmp_path, host=host.address, progress=settled.append) == (0, 0)
    assert len(host.requests) == asked
    assert sum(settled) == len(SMALL) + len(LARGE)


def test_a_broken_connection_is_continued_where_it_broke(host: Host, tmp_path: Path) -> None:
    host.files = {path: content for path, content in host.files.items() if "large" in path}
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "small.txt").write_bytes(SMALL)
    host.break_after = 100_000
    settled: list[int] = []
    count, received = download.fetch(entry(), tmp_path, host=host.address, pause=0, progress=settled.append)
    assert (tmp_path / "large.bin").read_bytes() == LARGE
    assert (count, received) == (1, len(LARGE)), "no byte came twice"
    assert sum(settled) == len(SMALL) + len(LARGE)
    ranges = [wanted for _, wanted in host.requests]
    assert ranges[0] is None
    assert ranges[1] is not None


def test_a_later_command_resumes_from_the_part_file(host: Host, tmp_path: Path) -> None:
    (tmp_path / "large.bin.part").write_bytes(LARGE[:300_000])
    _, received = download.fetch(entry(), tmp_path, host=host.address)
    assert (tmp_path / "large.bin").read_bytes() == LARGE
    assert received == len(LARGE) - 300_000 + len(SMALL)
    assert (f"/some/corpus/{REVISION}/large.bin", "bytes=300000-") in host.requests


def test_a_complete_part_file_needs_no_request(host: Host, tmp_path: Path) -> None:
    (tmp_path / "large.bin.part").write_bytes(LARGE)
    download.fetch(entry(), tmp_path, host=host.address)
    assert not any("large" in path for path, _ in host.requests)


def test_a_server_without_ranges_starts_again(host: Host, tmp_path: Path) -> None:
    host.ignore_ranges = True
    (tmp_path / "large.bin.part").write_bytes(b"\xff" * 1000)
    settled: list[int] = []
    download.fetch(entry(), tmp_path, host=host.address, progress=settled.append)
    assert (tmp_path / "large.bin").read_bytes() == LARGE
    assert sum(settled) == len(SMALL) + len(LARGE)


@pytest.mark.parametrize("wrong", [LARGE[:-1] + b"?", LARGE + b"more", b"an error page"])
def test_another_file_than_the_pinned_one_is_discarded(host: Host, tmp_path: Path, wrong: bytes) -> None:
    host.files[f"/some/corpus/{REVISION}/large.bin"] = wrong
    with pytest.raises(DataMissingError, match="another file than the catalog pins"):
        download.fetch(entry(), tmp_path, host=host.address)
    assert not (tmp_path / "large.bin").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_local_file_is_replaced(host: Host, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(LARGE[:-1] + b"?")
    assert download.fetch(entry(), tmp_path, host=host.address)[0] == 2
    assert (tmp_path / "large.bin").read_bytes() == LARGE


def test_a_moved_address_says_so(host: Host, tmp_path: Path) -> None:
    host.status = 404
    with pytest.raises(DataMissingError, match="the server answers 404"):
        download.fetch(entry(), tmp_path, host=host.address)
    assert len(host.requests) == 1, "a refusal is not tried again"


def test_offline_names_the_place_for_a_copy_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "small-corpus"
    with pytest.raises(DataMissingError, match="is this machine online") as raised:
        download.fetch(entry(), folder, host="http://127.0.0.1:9", pause=0)
    assert str(folder / "text" / "small.txt") in str(raised.value)


def test_consent_is_asked_before_anything_is_downloaded(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match=r"CC BY-NC-ND 4\.0.*https://github\.com/some/corpus.*--accept-licence"):
        download.fetch(entry(permissive=False), tmp_path, host=host.address)
    asked: list[str] = []

    def refuse(corpus: CatalogEntry) -> bool:
        asked.append(corpus.licence)
        return False

    with pytest.raises(ConsentError):
        download.fetch(entry(permissive=False), tmp_path, host=host.address, consent=refuse)
    assert asked == ["CC BY-NC-ND 4.0"]
    assert host.requests == []
    assert download.fetch(entry(permissive=False), tmp_path, host=host.address, consent=True)[0] == 2


def test_files_that_are_there_need_no_consent(host: Host, tmp_path: Path) -> None:
    download.fetch(entry(), tmp_path, host=host.address)
    assert download.fetch(entry(permissive=False), tmp_path, host=host.address) == (0, 0)


def test_addresses_are_pinned_and_quoted() -> None:
    for corpus_id in catalog.catalog_ids():
        for repository, revision, file in catalog.catalog_entry(corpus_id).origins:
            url = httpx.URL(download.address(repository, revision, file.upstream))
            assert url.host == "raw.githubusercontent.com"
            assert url.path == f"/{repository}/{revision}/{file.upstream}"


def test_get_brings_a_corpus_into_its_folder(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "catalog_entry", lambda corpus_id: entry())
    monkeypatch.setattr(catalog, "fetch", lambda *a, **k: download.fetch(*a, **k, host=host.address))
    (done,) = catalog.get(["small-corpus"], tmp_path)
    assert (done.downloaded, done.bytes) == (2, len(SMALL) + len(LARGE))
    assert (tmp_path / "small-corpus" / "large.bin").read_bytes() == LARGE
