"""Download of public files from pinned addresses: checksum, resume, and a licence that is shown first.

A file is written beside its place as ``<name>.part`` and renamed when its checksum is right, so a file that is there
under its own name is whole. An interrupted download continues from its .part file with an HTTP range request.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

from clinprompt.errors import ConsentError, DataMissingError

if TYPE_CHECKING:
    from clinprompt.corpora.catalog import CatalogEntry
    from clinprompt.corpora.hub_files import PublicFile

Consent = bool | Callable[["CatalogEntry"], bool] | None
Progress = Callable[[int], object]

DEFAULT_HOST = "https://raw.githubusercontent.com"
_CHUNK = 1 << 16
_ATTEMPTS = 3
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


def address(repository: str, revision: str, upstream: str, host: str = DEFAULT_HOST) -> str:
    """The public address of a file at a pinned revision."""
    return f"{host}/{repository}/{revision}/{quote(upstream)}"


def file_is_intact(path: Path, size: int, sha256: str) -> bool:
    """Whether the file is there with this size and checksum."""
    return path.is_file() and path.stat().st_size == size and _digest(path) == sha256


def fetch(
    entry: CatalogEntry,
    folder: Path,
    *,
    consent: Consent = None,
    progress: Progress | None = None,
    host: str = DEFAULT_HOST,
    pause: float = 1.0,
) -> tuple[int, int]:
    """Bring the files of a corpus into `folder`; returns (files downloaded, bytes downloaded).

    Files that are already there with the right checksum are not touched. `progress` is called with each number of
    bytes that is settled, downloaded or found. A broken connection is tried again, from where it broke, three times in
    all with `pause` seconds (then twice that) between.

    Raises ConsentError if something is to be downloaded, the licence is not permissive and `consent` does not say yes;
    DataMissingError if an address cannot be reached or gives another file than the catalog pins.
    """
    report = progress or (lambda amount: None)
    wanted: list[tuple[str, PublicFile]] = []
    for repository, revision, file in entry.origins:
        if file_is_intact(folder / file.path, file.bytes, file.sha256):
            report(file.bytes)
        else:
            wanted.append((address(repository, revision, file.upstream, host), file))
    if not wanted:
        return 0, 0
    require_consent(entry, consent)
    return len(wanted), fetch_files(entry, wanted, folder, report, pause)


def fetch_files(
    entry: CatalogEntry, wanted: Sequence[tuple[str, PublicFile]], folder: Path, report: Progress, pause: float
) -> int:
    """Download (address, file) pairs into `folder`, resuming; returns the bytes that came over the network."""
    total = 0
    with httpx.Client(timeout=TIMEOUT, follow_redirects=True) as client:
        for url, file in wanted:
            total += _fetch_file(client, entry, url, file, folder, report, pause)
    return total


def require_consent(entry: CatalogEntry, consent: Consent) -> None:
    """Raise ConsentError, which shows the licence, unless it is permissive or `consent` says yes."""
    if entry.permissive:
        return
    agreed = consent(entry) if callable(consent) else consent
    if not agreed:
        raise ConsentError(
            f"{entry.id} ({entry.title}): licence {entry.licence!r} is not a permissive one; it is yours to decide "
            f"whether your use is within it. See the licence and terms of {_homes(entry)}. To accept and download: "
            f"`clinprompt data get {entry.id} --accept-licence`."
        )


def _homes(entry: CatalogEntry) -> str:
    if entry.hub is not None:
        return f"https://huggingface.co/datasets/{entry.hub.repository}"
    return ", ".join(dict.fromkeys(f"https://github.com/{repository}" for repository, _, _ in entry.origins))


def _fetch_file(
    client: httpx.Client,
    entry: CatalogEntry,
    url: str,
    file: PublicFile,
    folder: Path,
    report: Progress,
    pause: float,
) -> int:
    """Download one file, resuming; returns the bytes that came over the network."""
    target = folder / file.path
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    received = 0
    reported = 0

    def settle() -> None:
        """Report up to what the .part file holds; never backwards, also when a server makes us start again."""
        nonlocal reported
        size = min(part.stat().st_size, file.bytes)
        if size > reported:
            report(size - reported)
            reported = size

    for attempt in range(_ATTEMPTS):
        try:
            for amount in _receive(client, url, part, file.bytes):
                received += amount
                settle()
            break
        except httpx.TransportError as error:
            if attempt == _ATTEMPTS - 1:
                raise DataMissingError(_unreachable(entry, url, folder, file, reason_of(error))) from None
            time.sleep(pause * 2**attempt)
        except httpx.HTTPStatusError as error:
            reason = f"the server answers {error.response.status_code}"
            raise DataMissingError(_unreachable(entry, url, folder, file, reason)) from None
    if not file_is_intact(part, file.bytes, file.sha256):
        size = part.stat().st_size
        part.unlink()
        raise DataMissingError(
            f"{entry.id}: {url} gave another file than the catalog pins ({size} bytes instead of {file.bytes}, or "
            f"another checksum); it was discarded. Try again; if it stays so, a proxy changes the file or the address "
            f"has moved, and the file must be put at {target} by hand."
        )
    settle()
    part.replace(target)
    return received


def _receive(client: httpx.Client, url: str, part: Path, size: int) -> Iterator[int]:
    """Append the rest of the file to `part`, yielding the size of each piece written."""
    start = part.stat().st_size if part.is_file() else 0
    if start > size:
        part.unlink()
        start = 0
    if start == size and part.is_file():
        return
    # A compressed transfer has other byte positions than the file: ask for none.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as sink:
            for piece in response.iter_bytes(_CHUNK):
                sink.write(piece)
                sink.flush()
                yield len(piece)
                if sink.tell() > size:  # another file, perhaps without end; the checksum will say so
                    return


def reason_of(error: httpx.TransportError) -> str:
    """What went wrong on the way, in words."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return "no connection (is this machine online?)"
    return f"the connection broke ({type(error).__name__})"


def _unreachable(entry: CatalogEntry, url: str, folder: Path, file: PublicFile, reason: str) -> str:
    return (
        f"{entry.id}: cannot download {url}: {reason}. Try again (the download continues where it stopped), or copy "
        f"the corpus from a machine that is online: this file belongs at {folder / file.path}, and the folder above "
        f"{folder.name} is what --data-dir or CLINPROMPT_DATA names."
    )


def _digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
