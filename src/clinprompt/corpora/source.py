"""Files as text, and mentions checked against it: what every reader needs before its own format begins.

Lines are split on line feeds only. `str.splitlines` also splits on form feeds, U+0085 and U+2028, which occur in
clinical notes and would shift every line number and offset after them.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Span

BOM = "\ufeff"


class SurfaceMismatchError(CorpusError):
    """Offsets that do not select the text the annotation quotes."""


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, decompressed if its name ends in .gz. Raises CorpusError if it cannot be read."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise CorpusError(path, None, "no such file.", "Check the path.") from None
    except IsADirectoryError:
        raise CorpusError(path, None, "is a folder, and this format is a single file.", "Name the file.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise CorpusError(path, None, "not a complete gzip file.", "Download or copy it again.") from None
    except OSError as error:
        raise CorpusError(path, None, f"cannot be read: {error.strerror}.", "Check its permissions.") from None


_ignored: ContextVar[Mapping[Path, Collection[int]]] = ContextVar("ignored", default=MappingProxyType({}))


@contextmanager
def ignoring_lines(lines: Mapping[Path, Collection[int]]) -> Iterator[None]:
    """Within, `read_text` gives these 1-based lines of a file as empty ones: how a checker gets past an error."""
    token = _ignored.set(lines)
    try:
        yield
    finally:
        _ignored.reset(token)


def read_text(path: Path, encoding: str = "utf-8", *, keep_bom: bool = False) -> str:
    """The text of a file with its line ends untouched. Raises CorpusError naming the line that is not `encoding`."""
    raw = read_bytes(path)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        cure = "Save the file as UTF-8, or name its encoding (for example cp1252 or latin-1)."
        raise CorpusError(path, line, f"byte {error.start} is not {encoding}.", cure) from None
    except LookupError:
        raise CorpusError(path, None, f"unknown encoding {encoding!r}.", "Use a Python codec name: utf-8.") from None
    if ignored := _ignored.get().get(path):
        text = "\n".join("" if n in ignored else line for n, line in enumerate(text.split("\n"), start=1))
    return text if keep_bom else text.removeprefix(BOM)


def numbered_lines(text: str) -> Iterable[tuple[int, str]]:
    """(1-based number, line without its line end); CRLF is an end too, and a final line end makes no empty line."""
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix("\r")


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """All files below `folder` with one of the suffixes, sorted by path; hidden ones (dot files) are left out."""
    if not folder.exists():
        raise CorpusError(folder, None, "no such file or folder.", "Check the path.")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def document_id(path: Path, folder: Path) -> str:
    """A file's name without suffix, with the subfolders below `folder` in front: unique within the corpus."""
    return path.relative_to(folder).with_suffix("").as_posix()


def same_surface(found: str, quoted: str, *, ignore_case: bool = False) -> bool:
    """Equal up to white space, which annotation tools fold (BRAT writes a line break as a space)."""
    left, right = " ".join(found.split()), " ".join(quoted.split())
    return left.lower() == right.lower() if ignore_case else left == right


def checked_entity(
    path: Path,
    line: int | None,
    text: str,
    *,
    id: str,
    type: str,
    spans: Iterable[Span],
    quoted: str | None = None,
    concepts: Sequence[str] = (),
    ignore_case: bool = False,
) -> Entity:
    """An entity whose spans lie in `text` and select what the annotation quotes, else CorpusError at `path:line`.

    `quoted` None means that the format quotes nothing. Spans are sorted; overlapping ones are refused.
    """
    ordered = tuple(sorted(spans))
    name = f"mention {id!r}"
    if not ordered or any(start < 0 or end <= start for start, end in ordered):
        raise CorpusError(path, line, f"{name} has an empty or negative span {ordered}.", "Correct its offsets.")
    if ordered[-1][1] > len(text):
        problem = f"{name} ends at {ordered[-1][1]}, but the text has {len(text)} characters."
        raise SurfaceMismatchError(path, line, problem, "Check that annotation and text belong together.")
    try:
        entity = Entity(id=id, type=type, spans=ordered, concepts=tuple(concepts))
    except ValueError:
        raise CorpusError(path, line, f"{name} has fragments that overlap: {ordered}.", "Correct them.") from None
    if quoted is not None and not same_surface(entity.text_in(text), quoted, ignore_case=ignore_case):
        cure = (
            "Offsets count characters of the text file as it is (not bytes, not after editing it); correct them, or "
            "leave such mentions out with the reader option `mismatch: skip`."
        )
        raise SurfaceMismatchError(path, line, f"{name} at {ordered} does not select the text it quotes.", cure)
    return entity


def merge_spans(text: str, spans: Iterable[Span]) -> tuple[Span, ...]:
    """Fragments that only white space separates become one span.

    BRAT cannot annotate across a line break and writes such a mention as two fragments.
    """
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start >= merged[-1][1] and not text[merged[-1][1] : start].strip():
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


_WHOLE = re.compile(r"[0-9]{1,12}")


def whole_number(text: str) -> int | None:
    """A non-negative number in ASCII digits; None for anything else (`str.isdigit` also accepts ²)."""
    return int(text) if _WHOLE.fullmatch(text) else None


def shown(name: str) -> str:
    """A name for an error message: quoted if it looks like one, described if it may be a piece of a note."""
    return repr(name) if len(name) <= 40 and len(name.split()) <= 4 else f"(text of {len(name)} characters)"


_SAFE = re.compile(r"[^A-Za-z0-9._-]+")


def safe_file_name(record_id: str) -> str:
    """A record id as a file name: anything but letters, digits, dot, dash and underscore becomes an underscore."""
    return _SAFE.sub("_", record_id).strip(".") or "record"
