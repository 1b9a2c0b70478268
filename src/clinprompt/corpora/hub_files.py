"""Files of a data set as the Hugging Face hub stores them: parquet shards, or JSON Lines of the same rows.

Only data is read: no loading script, no remote code. pyarrow reads parquet (extra ``suites``); JSON Lines need nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from clinprompt.corpora.source import shown
from clinprompt.errors import CorpusError, DataMissingError

# <split>.parquet, <split>-00000-of-00002.parquet (pushed by `datasets`), <split>/0000.parquet (converted by the hub)
_SHARD = r"(?:-[0-9]{5}-of-[0-9]{5}(?:-[0-9a-f]{16})?|/[0-9]{4,5})?\.(parquet|jsonl)"
_BATCH = 1024


class PublicFile(BaseModel):
    """One file of a corpus: `path` below the corpus's local folder, `upstream` in its repository."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    upstream: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class HubPart(BaseModel):
    """One published split: `path` is its name in the repository without shard number and suffix (``cola/train``).

    `split` is what we use it for. `rows` is the number the data set's own documentation gives. `part` names the section
    of a split that is put together from several (``matched``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["train", "validation", "test"]
    path: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)+$")
    rows: int = Field(gt=0)
    part: str = ""


class HubSource(BaseModel):
    """A data set on the hub at a pinned revision, a commit of its repository; `pinned_by` says how that is known.

    Without a part for validation, every eighth group of training is set aside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    pinned_by: str
    parts: tuple[HubPart, ...]

    @property
    def folder_name(self) -> str:
        """The local folder: the repository's name without its owner, as `git clone` names it."""
        return self.repository.partition("/")[2]

    @property
    def carves(self) -> bool:
        """Whether validation is set aside from training."""
        return all(part.split != "validation" for part in self.parts)

    @property
    def published(self) -> dict[str, int]:
        """Rows per split of ours, as documented; validation is 0 where it is carved from training."""
        return {s: sum(p.rows for p in self.parts if p.split == s) for s in ("train", "validation", "test")}


def shard_pattern(path: str) -> re.Pattern[str]:
    """Matches the names of a part's files, relative to the repository; group 1 is the suffix."""
    return re.compile(re.escape(path) + _SHARD)


def part_files(folder: Path, part: HubPart) -> list[Path]:
    """The local files of a part, in shard order; parquet where both are there. Empty if there are none."""
    found: dict[str, list[Path]] = {"parquet": [], "jsonl": []}
    place = folder / part.path
    for candidate in [*place.parent.glob(place.name + "*"), *place.glob("*")]:
        match = shard_pattern(part.path).fullmatch(candidate.relative_to(folder).as_posix())
        if match and candidate.is_file():
            found[match.group(1)].append(candidate)
    return sorted(found["parquet"] or found["jsonl"])


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The rows of a file with these columns at least. Raises CorpusError for another kind of file or a missing column;
    DataMissingError, with the cure, where parquet cannot be read for want of pyarrow."""
    yield from _parquet(path, columns) if path.suffix == ".parquet" else _json_lines(path, columns)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DataMissingError(
            f"{path}: reading parquet needs the package pyarrow: pip install 'clinprompt[suites]', or put the same "
            f"rows beside it as {path.stem}.jsonl and take the parquet file away."
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            _require(path, None, columns, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        kind = type(error).__name__
        raise CorpusError(path, None, f"not a readable parquet file ({kind}).", "Download it again.") from None


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise CorpusError(path, number, "not JSON.", "Write one JSON object per line.") from None
            if not isinstance(row, dict):
                raise CorpusError(path, number, "not a JSON object.", "Write one JSON object per line.")
            _require(path, number, columns, list(row))
            yield row


def _require(path: Path, line: int | None, columns: Sequence[str], there: Sequence[str]) -> None:
    missing = [name for name in columns if name not in there]
    if missing:
        known = ", ".join(shown(name) for name in there) or "(none)"
        problem = f"there is no column {missing[0]!r}. Columns: {known}."
        raise CorpusError(path, line, problem, "Use the file of the data set that the catalog names.")
