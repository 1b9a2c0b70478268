"""Download from the Hugging Face hub at a pinned revision.

The hub lists the files of a revision with their sizes and the SHA-256 of each large file; what is downloaded is checked
against that list, which is kept beside the files as ``clinprompt-hub.json`` for later checks without a network.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from clinprompt.corpora.download import TIMEOUT, Consent, Progress, fetch_files, file_is_intact, reason_of
from clinprompt.corpora.download import require_consent as require
from clinprompt.corpora.hub_files import HubPart, HubSource, PublicFile, part_files, shard_pattern
from clinprompt.errors import CorpusError, DataMissingError

if TYPE_CHECKING:
    from clinprompt.corpora.catalog import CatalogEntry

HUB = "https://huggingface.co"
MANIFEST = "clinprompt-hub.json"
_ATTEMPTS = 3


def fetch_hub(
    entry: CatalogEntry,
    folder: Path,
    *,
    consent: Consent = None,
    progress: Progress | None = None,
    host: str = HUB,
    pause: float = 1.0,
) -> tuple[int, int]:
    """Bring the parts of a hub data set into `folder`; returns (files downloaded, bytes downloaded).

    Parts whose files are there (intact, where a checksum is known) are not touched and need no network; a folder that
    was copied by hand is used as it is. Raises as `clinprompt.corpora.download.fetch` does.
    """
    source = entry.hub
    assert source is not None
    report = progress or (lambda amount: None)
    parts = [part for part in source.parts if not _is_here(folder, source, part)]
    if not parts:
        return 0, 0
    require(entry, consent)
    with httpx.Client(timeout=TIMEOUT, follow_redirects=True) as client:
        files = [f for part in parts for f in _listed(client, entry, source, part, host, pause)]
    wanted = [
        (f"{host}/datasets/{source.repository}/resolve/{source.revision}/{quote(file.upstream)}", file)
        for file in files
        if not file_is_intact(folder / file.path, file.bytes, file.sha256)
    ]
    _remember(folder, source, files)  # first, so that an interrupted download is known to be incomplete
    return len(wanted), fetch_files(entry, wanted, folder, report, pause)


def known_files(folder: Path, source: HubSource) -> dict[str, PublicFile]:
    """The files of this data set that `get` brought, with their checksums. Raises CorpusError for a damaged list."""
    kept = _manifest(folder)
    if not _belongs(kept, source):
        return {}
    patterns = [shard_pattern(part.path) for part in source.parts]
    return {
        file["path"]: PublicFile.model_validate(file)
        for file in kept["files"]
        if any(pattern.fullmatch(file["path"]) for pattern in patterns)
    }


def hub_problems(folder: Path, source: HubSource) -> tuple[list[str], bool]:
    """What is wrong with the local files, and whether any checksum is known to tell."""
    try:
        known = known_files(folder, source)
    except CorpusError as error:
        return [str(error)], False
    problems = [
        f"{file.path}: {'damaged: checksum differs' if (folder / file.path).is_file() else 'missing'}"
        for file in known.values()
        if not file_is_intact(folder / file.path, file.bytes, file.sha256)
    ]
    return problems, bool(known)


def _belongs(kept: dict[str, Any], source: HubSource) -> bool:
    """Whether a list is of this data set at the revision that the catalog pins."""
    return (kept.get("repository"), kept.get("revision")) == (source.repository, source.revision)


def _is_here(folder: Path, source: HubSource, part: HubPart) -> bool:
    kept = _manifest(folder)
    if kept and not _belongs(kept, source):
        return False  # what `get` brought is of another revision
    pattern = shard_pattern(part.path)
    known = [file for path, file in known_files(folder, source).items() if pattern.fullmatch(path)]
    if known:
        return all(file_is_intact(folder / file.path, file.bytes, file.sha256) for file in known)
    return bool(part_files(folder, part))


# --- what the hub says ------------------------------------------------------------------------------------------------


def _listed(
    client: httpx.Client, entry: CatalogEntry, source: HubSource, part: HubPart, host: str, pause: float
) -> list[PublicFile]:
    """The parquet files of a part at the pinned revision, as the hub lists them."""
    parent = part.path.rpartition("/")[0]
    url = f"{host}/api/datasets/{source.repository}/tree/{source.revision}/{quote(parent)}?recursive=true"
    pattern = shard_pattern(part.path)
    listed = [item for item in _ask(client, entry, url, pause) if pattern.fullmatch(item["path"])]
    files = [
        PublicFile(path=item["path"], upstream=item["path"], bytes=item["size"], sha256=item["lfs"]["oid"])
        for item in listed
        if item.get("lfs")
    ]
    if not files:
        raise DataMissingError(
            f"{entry.id}: {source.repository} at {source.revision} lists no parquet files of {part.path}. Put "
            "the data set's files into the data folder by hand, as docs/suites.md says."
        )
    return files


def _ask(client: httpx.Client, entry: CatalogEntry, url: str, pause: float) -> Any:
    for attempt in range(_ATTEMPTS):
        try:
            answer = client.get(url)
            answer.raise_for_status()
            return answer.json()
        except httpx.TransportError as error:
            if attempt == _ATTEMPTS - 1:
                raise DataMissingError(_unreachable(entry, url, reason_of(error))) from None
            time.sleep(pause * 2**attempt)
        except httpx.HTTPStatusError as error:
            reason = f"the server answers {error.response.status_code}"
            raise DataMissingError(_unreachable(entry, url, reason)) from None
        except ValueError:
            raise DataMissingError(_unreachable(entry, url, "the answer is not JSON")) from None
    raise AssertionError("unreachable")  # the last attempt returns or raises


def _unreachable(entry: CatalogEntry, url: str, reason: str) -> str:
    assert entry.hub is not None
    return (
        f"{entry.id}: cannot read {url}: {reason}. Try again, or copy the data set from a machine that is online: its "
        f"files belong at <data folder>/{entry.hub.folder_name}/<path in the repository>."
    )


# --- the list beside the files ----------------------------------------------------------------------------------------


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        for file in kept["files"]:
            PublicFile.model_validate(file)
        if not all(isinstance(kept[key], str) for key in ("repository", "revision")):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise CorpusError(path, None, "damaged.", "Remove it and get the data set again.") from None
    return dict(kept)


def _remember(folder: Path, source: HubSource, files: list[PublicFile]) -> None:
    """Add these files to the list, replacing what it said of them."""
    kept = _manifest(folder)
    known = {file["path"]: file for file in kept["files"]} if kept and _belongs(kept, source) else {}
    known |= {file.path: file.model_dump() for file in files}
    folder.mkdir(parents=True, exist_ok=True)
    listed = [known[path] for path in sorted(known)]
    content = {"repository": source.repository, "revision": source.revision, "files": listed}
    part = folder / (MANIFEST + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / MANIFEST)
