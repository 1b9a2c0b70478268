"""The catalog of public corpora: where each one lives, under which licence, and how it becomes records.

One YAML file per corpus in `catalog_entries/`. No corpus is redistributed: an entry names public files at pinned
revisions, with their sizes and checksums; a local copy lies in ``<data folder>/<corpus id>/<path>``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from clinprompt.corpora.download import Consent, fetch, file_is_intact
from clinprompt.corpora.public.registry import LOADERS
from clinprompt.errors import ClinpromptError, DataMissingError, TaskError, unknown_name
from clinprompt.records import Record
from clinprompt.tasks.definition import SPLITS, TaskDefinition, TaskType

DATA_VARIABLE = "CLINPROMPT_DATA"
_ENTRIES = package_files("clinprompt.corpora") / "catalog_entries"
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same safe subset, ten times as fast


class PublicFile(BaseModel):
    """One file of a corpus: `path` below the corpus's local folder, `upstream` in its repository."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    upstream: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Source(BaseModel):
    """A public repository at a pinned revision, and what is taken from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    files: tuple[PublicFile, ...]


class CatalogEntry(BaseModel):
    """A public corpus read as one task.

    `permissive` says whether the licence lets anyone use the data without further thought (public domain, CC0, CC BY,
    MIT); for all others (NC, ND, SA, registration, none stated) `get` asks for consent. `expected` counts the records
    per split. `withheld` are ids of training records that repeat a text of a target's test split: `load_corpus` has
    them, `clinprompt.suites.load_task_data` leaves them out. `files_of` names the entry whose files this one reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str
    role: Literal["source", "target"]
    licence: str
    permissive: bool
    reference: str
    note: str
    loader: str
    task: TaskDefinition
    expected: dict[str, int]
    withheld: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    files_of: str = ""

    @property
    def type(self) -> TaskType:
        return self.task.type

    @property
    def files(self) -> tuple[PublicFile, ...]:
        """All files, those of `files_of` included."""
        return tuple(file for _, _, file in self.origins)

    @property
    def origins(self) -> tuple[tuple[str, str, PublicFile], ...]:
        """(repository, revision, file) of all files, those of `files_of` included."""
        own = tuple((s.repository, s.revision, file) for s in self.sources for file in s.files)
        return own + (catalog_entry(self.files_of).origins if self.files_of else ())

    @property
    def download_size(self) -> int:
        """Bytes to download for a complete copy."""
        return sum(file.bytes for file in self.files)

    def folder(self, data_dir: Path) -> Path:
        """Where the local copy lies."""
        return data_dir / (self.files_of or self.id)


@cache
def catalog_ids() -> tuple[str, ...]:
    """The ids of all corpora: sources first, then targets, by task type within each, then by name."""
    entries = [catalog_entry(item.name.removesuffix(".yaml")) for item in _ENTRIES.iterdir() if _is_entry(item.name)]
    order: dict[str, int] = {"ner": 0, "relation": 1, "qa": 2, "nli": 3, "summarization": 4}
    entries.sort(key=lambda entry: (entry.role != "source", order[entry.type], entry.id))
    return tuple(entry.id for entry in entries)


@cache
def catalog_entry(corpus_id: str) -> CatalogEntry:
    """The entry with this id. Raises TaskError, with the closest id, if there is none."""
    resource = _ENTRIES / f"{corpus_id}.yaml"
    known = sorted(item.name.removesuffix(".yaml") for item in _ENTRIES.iterdir() if _is_entry(item.name))
    if corpus_id not in known:
        raise TaskError(unknown_name("corpus", corpus_id, known))
    raw = yaml.load(resource.read_text(encoding="utf-8"), Loader=_YamlLoader)  # noqa: S506 - a safe loader, see above
    return CatalogEntry.model_validate(raw)


def _is_entry(name: str) -> bool:
    return name.endswith(".yaml")


def resolve_data_dir(option: Path | str | None = None) -> Path:
    """The data folder: the option, else the variable CLINPROMPT_DATA, else the user's cache folder.

    The cache folder is ``$XDG_CACHE_HOME/clinprompt/data`` (``~/.cache`` without that variable); it need not exist yet.
    """
    named = option or os.environ.get(DATA_VARIABLE)
    if named:
        return Path(named).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home).expanduser() / "clinprompt" / "data"


def load_corpus(corpus_id: str, data_dir: Path | str | None = None) -> dict[str, list[Record]]:
    """All splits of a public corpus from its local copy.

    Raises DataMissingError, naming the first missing file and both cures, if the copy is incomplete.
    """
    entry = catalog_entry(corpus_id)
    folder = entry.folder(resolve_data_dir(data_dir))
    missing = [file.path for file in entry.files if not (folder / file.path).is_file()]
    if missing:
        raise DataMissingError(_missing_message(entry, folder, missing))
    splits = LOADERS[entry.loader](folder)
    return {split: splits.get(split, []) for split in SPLITS}


def _missing_message(entry: CatalogEntry, folder: Path, missing: list[str]) -> str:
    consent = "" if entry.permissive else " --accept-licence"
    return (
        f"{entry.id}: {len(missing)} of {len(entry.files)} files are not in {folder} (first: {missing[0]}). "
        f"Download them with `clinprompt data get {entry.id}{consent}`, or name a folder that has them as "
        f"<folder>/{folder.name}/<path> with --data-dir or {DATA_VARIABLE}."
    )


# --- what the commands `data list | get | verify` do ------------------------------------------------------------------


def list_catalog(data_dir: Path | str | None = None) -> list[dict[str, Any]]:
    """One row per corpus, JSON-ready: identity, licence, size, counts, and whether the local copy is complete."""
    root = resolve_data_dir(data_dir)
    rows = []
    for corpus_id in catalog_ids():
        entry = catalog_entry(corpus_id)
        folder = entry.folder(root)
        rows.append(
            {
                "id": entry.id,
                "title": entry.title,
                "type": entry.type,
                "role": entry.role,
                "licence": entry.licence,
                "permissive": entry.permissive,
                "labels": len(entry.task.labels),
                "splits": dict(entry.expected),
                "bytes": entry.download_size,
                "local": all((folder / file.path).is_file() for file in entry.files),
                "note": entry.note,
                "reference": entry.reference,
            }
        )
    return rows


@dataclass(frozen=True, slots=True)
class Fetched:
    """What `get` did for one corpus."""

    id: str
    folder: Path
    downloaded: int
    bytes: int


def get(
    ids: list[str] | tuple[str, ...],
    data_dir: Path | str | None = None,
    *,
    consent: Consent = None,
    show_progress: bool = False,
) -> list[Fetched]:
    """Download what is missing of these corpora. A file that is there with the right checksum is left alone.

    `consent` decides about licences that are not permissive: True accepts all, False or None accepts none (then
    ConsentError shows the licence), a function is asked with the entry. The bar goes to standard error.
    """
    root = resolve_data_dir(data_dir)
    entries = [catalog_entry(corpus_id) for corpus_id in ids]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show_progress) as bars:
        done = []
        for entry in entries:
            bar = bars.add_task(entry.id, total=entry.download_size)
            count, size = fetch(entry, entry.folder(root), consent=consent, progress=partial(bars.advance, bar))
            done.append(Fetched(entry.id, entry.folder(root), count, size))
    return done


def verify(ids: list[str] | tuple[str, ...] | None = None, data_dir: Path | str | None = None) -> list[dict[str, Any]]:
    """Check local copies: every checksum, then the records per split against the expected counts.

    Returns ``[{"id", "ok", "splits": {split: count}, "problems": [...]}, …]``; a corpus that is missing or damaged is a
    row that is not ok, never an exception.
    """
    root = resolve_data_dir(data_dir)
    return [_verify_one(catalog_entry(corpus_id), root) for corpus_id in (ids or catalog_ids())]


def _verify_one(entry: CatalogEntry, root: Path) -> dict[str, Any]:
    folder = entry.folder(root)
    problems = [
        f"{file.path}: {'damaged: checksum differs' if (folder / file.path).is_file() else 'missing'}"
        for file in entry.files
        if not file_is_intact(folder / file.path, file.bytes, file.sha256)
    ]
    counts: dict[str, int] = {}
    try:
        counts = {split: len(records) for split, records in load_corpus(entry.id, root).items()}
    except ClinpromptError as error:
        problems.append(str(error))
    if counts and counts != entry.expected:
        problems.append(f"records per split are {counts}, expected {entry.expected}")
    return {"id": entry.id, "ok": not problems, "splits": counts, "problems": problems}
