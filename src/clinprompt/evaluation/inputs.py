"""What `predict` reads: text files, folders, BRAT pairs, JSON Lines and standard input become records.

Nothing is held that need not be: JSON Lines are read line by line.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from clinprompt.corpora.brat import read_brat
from clinprompt.corpora.jsonl import record_from_dict, record_to_dict
from clinprompt.corpora.source import document_id, files_in, read_text
from clinprompt.errors import CorpusError
from clinprompt.records import Record
from clinprompt.tasks.definition import TaskDefinition

Found = tuple[Path, int | None, Record]  # where a record comes from (file, line of JSON Lines), and the record
LINES = (".jsonl", ".ndjson")
NEEDS = {
    "nli": "`hypothesis` beside `text` (the premise)",
    "qa": "`question`",
    "options": "`question` and `options`",
    "relation": "the entities of each text",
}


def read_inputs(
    task: TaskDefinition,
    inputs: Sequence[Path],
    stdin: TextIO | None = None,
    *,
    filed: Callable[[str], str] | None = None,
) -> Iterator[Record]:
    """Records of all inputs in order; ``-`` (or no input at all) is standard input.

    .txt (and any other text file): one document each, with the entities of the .ann file beside it where the task is
    given entities. Folder: its .txt and .jsonl files, subfolders included. .jsonl: one record a line. Standard input:
    JSON Lines if it begins with ``{``, else one document. `filed`: id → the name that answers are filed under; two
    records of one name are then refused. Raises CorpusError for those and where a record lacks what the task asks.
    """
    names: dict[str, str] = {}
    for path in inputs or [Path("-")]:
        if str(path) == "-":
            if stdin is None:
                raise CorpusError(path, None, "standard input cannot be read here.", "Name files.")
            records = _standard_input(task, stdin)
        else:
            records = _file(task, path)
        for place, line, record in records:
            if filed is not None:
                _file_under(filed(record.id), record, place, line, names)
            yield record


def standard_input() -> TextIO:
    """Standard input, in which a byte that is no text is found at its line; decoding strictly, it names none."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _file_under(name: str, record: Record, path: Path, line: int | None, names: dict[str, str]) -> None:
    """Note where a name is used. Raises CorpusError, with both places, if it is used already."""
    if name in names:
        raise CorpusError(
            path,
            line,
            f"its name, {record.id!r}, is that of {names[name]} too, and answers are filed under it.",
            "Name the folder that holds both files, rename one, or give each line its own `id`.",
        )
    names[name] = str(path) if line is None else f"{path}:{line}"


def _file(task: TaskDefinition, path: Path) -> Iterator[Found]:
    if path.is_dir():
        found = files_in(path, ".txt", *LINES)
        if not found:
            raise CorpusError(path, None, "no .txt or .jsonl file in this folder.", "Name the folder that holds them.")
        for file in found:
            yield from _one(task, file, document_id(file, path))
    else:
        yield from _one(task, path, path.stem)


def _one(task: TaskDefinition, path: Path, identifier: str) -> Iterator[Found]:
    if path.suffix.lower() in LINES:
        try:
            with path.open(encoding="utf-8", newline="\n", errors="surrogateescape") as lines:
                yield from _lines(task, path, lines)
        except FileNotFoundError:
            raise CorpusError(path, None, "no such file.", "Check the path.") from None
        return
    if _given_entities(task) and path.with_suffix(".ann").is_file():
        records: Iterable[Record] = read_brat(path)
    else:
        records = [Record(identifier, read_text(path))]
    for record in records:
        yield _complete(task, record, path, None)


def _standard_input(task: TaskDefinition, stdin: TextIO) -> Iterator[Found]:
    """JSON Lines if the first character that is no space is a brace, else one document."""
    name = Path("standard input")
    first = ""
    for line in stdin:
        first += line
        if line.strip():
            break
    if first.lstrip().startswith("{"):
        yield from _lines(task, name, _chained(first, stdin))
    elif text := first + stdin.read():
        for number, line in enumerate(text.split("\n"), start=1):
            _require_utf8(line, name, number)
        yield _complete(task, Record("stdin", text), name, None)


def _chained(first: str, rest: TextIO) -> Iterator[str]:
    yield from first.splitlines(keepends=True)
    yield from rest


def _lines(task: TaskDefinition, path: Path, lines: Iterable[str]) -> Iterator[Found]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        _require_utf8(line, path, number)
        try:
            record = record_from_dict(_normal(json.loads(line), number))
        except json.JSONDecodeError as error:
            raise CorpusError(path, number, f"not JSON at column {error.colno}.", "One object a line.") from None
        except (ValueError, RecursionError) as error:
            raise CorpusError(path, number, f"not a record: {error}.", "Correct the line.") from None
        if _escaped(json.dumps(record_to_dict(record), ensure_ascii=False)):
            problem = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character."
            raise CorpusError(path, number, problem, "Write the whole pair, or the character itself.")
        yield _complete(task, record, path, number)


def _require_utf8(line: str, path: Path, number: int) -> None:
    """Raises CorpusError for a line in which bytes were left undecoded."""
    if _escaped(line):
        raise CorpusError(path, number, "not UTF-8.", "Save the file as UTF-8, or convert it with iconv.")


def _escaped(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _normal(data: Any, number: int) -> Any:
    """The short forms people write: no id (the line number), no text (empty), options as a list or an object."""
    if not isinstance(data, dict):
        return data
    data = {"id": str(number), "text": "", **data}
    if isinstance(data["id"], int):
        data["id"] = str(data["id"])
    options = data.get("options")
    if isinstance(options, dict):
        data["options"] = [[str(key), text] for key, text in options.items()]
    elif isinstance(options, list) and all(isinstance(option, str) for option in options):
        data["options"] = [[chr(ord("A") + i), text] for i, text in enumerate(options)]
    return data


def _given_entities(task: TaskDefinition) -> bool:
    return task.type == "relation" and task.entities == "given"


def _complete(task: TaskDefinition, record: Record, path: Path, line: int | None) -> Found:
    lacks = lacking(task, record)
    if lacks is None:
        return path, line, record
    cure = "Give JSON Lines with these fields" + (", or BRAT .txt/.ann pairs." if lacks == "relation" else ".")
    raise CorpusError(path, line, f"record {record.id!r}: the task {task.name!r} needs {NEEDS[lacks]}.", cure)


def lacking(task: TaskDefinition, record: Record) -> str | None:
    """The key of NEEDS that the record does not meet, None if it has all."""
    if task.type == "nli" and not record.hypothesis:
        return "nli"
    if task.type == "qa" and not record.question:
        return "options" if task.answer_kind == "options" else "qa"
    if task.type == "qa" and task.answer_kind == "options" and not record.options:
        return "options"
    return "relation" if _given_entities(task) and not record.entities else None
