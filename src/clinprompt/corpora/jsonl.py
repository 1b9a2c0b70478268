"""Records as JSON Lines, without loss: the format in which records travel between commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clinprompt.corpora.source import numbered_lines, read_text
from clinprompt.errors import CorpusError
from clinprompt.records import Entity, Record, Relation

_KEYS = frozenset(Record.__dataclass_fields__)
_STRINGS = ("label", "question", "answer", "hypothesis", "summary")


def record_to_dict(record: Record) -> dict[str, Any]:
    """A JSON-ready mapping; empty fields are left out. `record_from_dict` is its inverse.

    `meta` must be JSON-ready: tuples in it come back as lists.
    """
    data: dict[str, Any] = {"id": record.id, "text": record.text}
    if record.entities:
        data["entities"] = [_entity_to_dict(entity) for entity in record.entities]
    if record.relations:
        data["relations"] = [_relation_to_dict(relation) for relation in record.relations]
    data |= {name: value for name in _STRINGS if (value := getattr(record, name)) is not None}
    if record.options:
        data["options"] = [list(pair) for pair in record.options]
    if record.group:
        data["group"] = record.group
    if record.meta:
        data["meta"] = dict(record.meta)
    return data


def record_from_dict(data: Mapping[str, Any]) -> Record:
    """A record from `record_to_dict`'s mapping; ValueError says which key is wrong (and quotes no text)."""
    if not isinstance(data, Mapping):
        raise ValueError("not an object with `id` and `text`")
    if unknown := sorted(set(data) - _KEYS):
        raise ValueError(f"unknown key `{unknown[0]}` (known: {', '.join(sorted(_KEYS))})")
    strings = {name: _string(data, name, default=None) for name in _STRINGS}
    meta = data.get("meta", {})
    if not isinstance(meta, Mapping):
        raise ValueError("`meta` is not an object")
    return Record(
        id=_string(data, "id") or "",
        text=_string(data, "text") or "",
        entities=tuple(_entity_from_dict(item) for item in _list(data, "entities")),
        relations=tuple(_relation_from_dict(item) for item in _list(data, "relations")),
        options=tuple(_option(item) for item in _list(data, "options")),
        group=_string(data, "group", default="") or "",
        meta=dict(meta),
        **strings,
    )


def read_records(path: Path) -> list[Record]:
    """Records written by `writers.write_jsonl` (or by hand in that form). Raises CorpusError with the line."""
    path = Path(path)
    records, seen = [], set()
    for number, line in numbered_lines(read_text(path)):
        if not line.strip():
            continue
        try:
            record = record_from_dict(json.loads(line))
        except json.JSONDecodeError as error:
            raise CorpusError(path, number, f"not JSON at column {error.colno}: {error.msg}.", "Repair it.") from None
        except (ValueError, RecursionError) as error:
            raise CorpusError(path, number, f"not a record: {error}.", "Correct the line.") from None
        if record.id in seen:
            raise CorpusError(path, number, f"record {record.id!r} appears twice.", "Give each record its own id.")
        seen.add(record.id)
        records.append(record)
    return records


def dump_lines(records: Iterable[Record]) -> str:
    """One JSON object a line, keys in a fixed order; text that UTF-8 cannot hold (unpaired surrogates) is escaped."""
    return "".join(_dump_line(record) for record in records)


def _dump_line(record: Record) -> str:
    data = record_to_dict(record)
    line = json.dumps(data, ensure_ascii=False)
    encodable = not any("\ud800" <= character <= "\udfff" for character in line)
    return (line if encodable else json.dumps(data)) + "\n"


def _entity_to_dict(entity: Entity) -> dict[str, Any]:
    data: dict[str, Any] = {"id": entity.id, "type": entity.type, "spans": [list(span) for span in entity.spans]}
    return data | ({"concepts": list(entity.concepts)} if entity.concepts else {})


def _relation_to_dict(relation: Relation) -> dict[str, Any]:
    data = {"type": relation.type, "head": relation.head, "tail": relation.tail}
    return data | ({"id": relation.id} if relation.id else {})


def _string(data: Mapping[str, Any], key: str, default: Any = ...) -> str | None:
    value = data.get(key, default)
    if value is ...:
        raise ValueError(f"`{key}` is missing")
    if value is not default and not isinstance(value, str):
        raise ValueError(f"`{key}` is not a string")
    return None if value is None else str(value)


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"`{key}` is not a list")
    return value


def _entity_from_dict(data: Any) -> Entity:
    try:
        spans = tuple((_offset(start), _offset(end)) for start, end in data["spans"])
        return Entity(str(data["id"]), str(data["type"]), spans, tuple(str(c) for c in data.get("concepts", ())))
    except (KeyError, TypeError, AttributeError):
        raise ValueError("an entity needs `id`, `type` and `spans` ([[start, end], …])") from None


def _offset(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _relation_from_dict(data: Any) -> Relation:
    try:
        return Relation(str(data["type"]), str(data["head"]), str(data["tail"]), str(data.get("id", "")))
    except (KeyError, TypeError, AttributeError):
        raise ValueError("a relation needs `type`, `head` and `tail`") from None


def _option(data: Any) -> tuple[str, str]:
    if not isinstance(data, list) or len(data) != 2 or not all(isinstance(part, str) for part in data):
        raise ValueError("an option is not a pair [key, text]")
    return data[0], data[1]
