"""The catalog of public corpora: where each one lives, under which licence, and how it becomes records.

One YAML file per corpus in `catalog_entries/`, and one per task of the general benchmarks in `catalog_general/`. No
corpus is redistributed: an entry names public files at pinned
revisions, with their sizes and checksums; a local copy lies in ``<data folder>/<corpus id>/<path>``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from clinprompt.corpora.download import Consent, fetch, file_is_intact
from clinprompt.corpora.general.registry import CONVERTERS
from clinprompt.corpora.hub_corpus import load_hub, missing_parts
from clinprompt.corpora.hub_download import fetch_hub, hub_problems
from clinprompt.corpora.hub_files import HubSource, PublicFile
from clinprompt.corpora.public.registry import LOADERS
from clinprompt.errors import ClinpromptError, DataMissingError, TaskError, unknown_name
from clinprompt.records import Record
from clinprompt.tasks.definition import SPLITS, TaskDefinition, TaskType

DATA_VARIABLE = "CLINPROMPT_DATA"
Collection = Literal["clinical", "general"]
"""Clinical corpora come from repositories of files; the general benchmarks from the Hugging Face hub."""
_FOLDERS: dict[Collection, Traversable] = {
    "clinical": package_files("clinprompt.corpora") / "catalog_entries",
    "general": package_files("clinprompt.corpora") / "catalog_general",
}
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same safe subset, ten times as fast


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
    A task of a general benchmark has `hub` instead of `sources`; its `loader` converts rows.
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
    hub: HubSource | None = None

    @property
    def collection(self) -> Collection:
        """Which of the two parts of the catalog it stands in."""
        return "general" if self.hub is not None else "clinical"

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
    def download_size(self) -> int | None:
        """Bytes to download for a complete copy; None where only the hub knows."""
        return None if self.hub is not None else sum(file.bytes for file in self.files)

    def folder(self, data_dir: Path) -> Path:
        """Where the local copy lies; the tasks of one repository on the hub share it."""
        if self.hub is not None:
            return data_dir / self.hub.folder_name
        return data_dir / (self.files_of or self.id)


@cache
def catalog_ids(collection: Collection | None = None) -> tuple[str, ...]:
    """The ids of all corpora, or of one collection: clinical before general, sources before targets, by task type
    within each, then by name; the general ones by name."""
    if collection is None:
        return (*catalog_ids("clinical"), *catalog_ids("general"))
    entries = [catalog_entry(name) for name in _names(collection)]
    order: dict[str, int] = {"ner": 0, "relation": 1, "qa": 2, "nli": 3, "summarization": 4}
    if collection == "general":
        entries.sort(key=lambda entry: entry.id)
    else:
        entries.sort(key=lambda entry: (entry.role != "source", order[entry.type], entry.id))
    return tuple(entry.id for entry in entries)


@cache
def catalog_entry(corpus_id: str) -> CatalogEntry:
    """The entry with this id. Raises TaskError, with the closest id, if there is none."""
    for collection, folder in _FOLDERS.items():
        if corpus_id in _names(collection):
            text = (folder / f"{corpus_id}.yaml").read_text(encoding="utf-8")
            raw = yaml.load(text, Loader=_YamlLoader)  # noqa: S506 - a safe loader, see above
            return CatalogEntry.model_validate(raw)
    raise TaskError(unknown_name("corpus", corpus_id, sorted(name for c in _FOLDERS for name in _names(c))))


@cache
def _names(collection: Collection) -> tuple[str, ...]:
    names = (item.name for item in _FOLDERS[collection].iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


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
    if entry.hub is not None:
        if lacking := missing_parts(entry.hub, folder):
            raise DataMissingError(_missing_message(entry, folder, lacking, len(entry.hub.parts)))
        return load_hub(entry.hub, folder, CONVERTERS[entry.loader])
    missing = [file.path for file in entry.files if not (folder / file.path).is_file()]
    if missing:
        raise DataMissingError(_missing_message(entry, folder, missing, len(entry.files)))
    splits = LOADERS[entry.loader](folder)
    return {split: splits.get(split, []) for split in SPLITS}


def _missing_message(entry: CatalogEntry, folder: Path, missing: list[str], total: int) -> str:
    consent = "" if entry.permissive else " --accept-licence"
    return (
        f"{entry.id}: {len(missing)} of {total} files are not in {folder} (first: {missing[0]}). "
        f"Download them with `clinprompt data get {entry.id}{consent}`, or name a folder that has them as "
        f"<folder>/{folder.name}/<path> with --data-dir or {DATA_VARIABLE}."
    )


# --- what the commands `data list | get | verify` do ------------------------------------------------------------------


def list_catalog(
    data_dir: Path | str | None = None, ids: tuple[str, ...] | list[str] | None = None
) -> list[dict[str, Any]]:
    """One row per corpus (of these, else of all), JSON-ready: identity, licence, size, counts, and whether the local
    copy is complete. `bytes` is None where only the hub knows; `carved`: validation is set aside from training."""
    root = resolve_data_dir(data_dir)
    rows = []
    for corpus_id in catalog_ids() if ids is None else ids:
        entry = catalog_entry(corpus_id)
        folder = entry.folder(root)
        rows.append(
            {
                "id": entry.id,
                "title": entry.title,
                "collection": entry.collection,
                "type": entry.type,
                "role": entry.role,
                "licence": entry.licence,
                "permissive": entry.permissive,
                "labels": len(entry.task.labels),
                "splits": dict(entry.expected),
                "carved": entry.hub is not None and entry.hub.carves,
                "bytes": entry.download_size,
                "local": _is_local(entry, folder),
                "note": entry.note,
                "reference": entry.reference,
            }
        )
    return rows


def _is_local(entry: CatalogEntry, folder: Path) -> bool:
    if entry.hub is not None:
        return not missing_parts(entry.hub, folder)
    return all((folder / file.path).is_file() for file in entry.files)


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
            bring = fetch if entry.hub is None else fetch_hub
            count, size = bring(entry, entry.folder(root), consent=consent, progress=partial(bars.advance, bar))
            done.append(Fetched(entry.id, entry.folder(root), count, size))
    return done


def verify(ids: list[str] | tuple[str, ...] | None = None, data_dir: Path | str | None = None) -> list[dict[str, Any]]:
    """Check local copies: every checksum, then the records per split against the expected counts.

    Files of the hub that `get` did not bring (copied by hand) have no known checksum; their rows are counted, and
    "checksums" is False.

    Returns ``[{"id", "ok", "splits": {split: count}, "problems": [...]}, …]``; a corpus that is missing or damaged is a
    row that is not ok, never an exception.
    """
    root = resolve_data_dir(data_dir)
    return [_verify_one(catalog_entry(corpus_id), root) for corpus_id in (ids or catalog_ids())]


def _verify_one(entry: CatalogEntry, root: Path) -> dict[str, Any]:
    folder = entry.folder(root)
    problems, checksums = hub_problems(folder, entry.hub) if entry.hub is not None else (_damage(entry, folder), True)
    counts: dict[str, int] = {}
    try:
        counts = {split: len(records) for split, records in load_corpus(entry.id, root).items()}
    except ClinpromptError as error:
        problems.append(str(error))
    if counts and not _as_expected(entry, counts):
        problems.append(f"records per split are {counts}, expected {entry.expected}")
    row = {"id": entry.id, "ok": not problems, "splits": counts, "problems": problems}
    return row | ({"checksums": checksums} if entry.hub is not None else {})


def _damage(entry: CatalogEntry, folder: Path) -> list[str]:
    return [
        f"{file.path}: {'damaged: checksum differs' if (folder / file.path).is_file() else 'missing'}"
        for file in entry.files
        if not file_is_intact(folder / file.path, file.bytes, file.sha256)
    ]


def _as_expected(entry: CatalogEntry, counts: dict[str, int]) -> bool:
    """Where validation is carved from training, which records it takes is not documented: their sum is."""
    if entry.hub is not None and entry.hub.carves:
        counts = {"train": counts["train"] + counts["validation"], "validation": 0, "test": counts["test"]}
    return counts == entry.expected
