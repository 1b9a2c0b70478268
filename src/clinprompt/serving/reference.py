"""`/docs`: the API described for people, made of its OpenAPI description: plain HTML with the page's own style.

Viewers such as Swagger UI are scripts that FastAPI's pages load from elsewhere; this one needs no script, and nothing
but this server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

Schema = Mapping[str, Any]

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
    "pattern": "pattern {}",
}


def reference_page(description: Schema) -> str:
    """The page of an OpenAPI 3.1 description."""
    info = description["info"]
    operations = list(_operations(description))
    tags = list(dict.fromkeys(tag for tag, *_ in operations))
    parts = [f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>", f"<p>{escape(info['description'])}</p>"]
    parts.append(
        '<p><a href="/">The page</a> · <a href="/openapi.json">This description for programs (OpenAPI)</a></p>'
    )
    parts.append(f'<nav aria-label="Contents"><ul class="plain-list">{"".join(_contents(tags, operations))}</ul></nav>')
    for tag in tags:
        parts.append(f"<h2>{escape(tag)}</h2>")
        parts += [_operation(method, path, found) for own, method, path, found in operations if own == tag]
    parts.append('<h2 id="schemas">What is sent and answered</h2>')
    parts += [_schema(name, schema) for name, schema in sorted(description["components"]["schemas"].items())]
    return _HEAD + "\n".join(parts) + "</main></body></html>\n"


_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>clinprompt: the API</title>
<link rel="icon" href="/page/icon.svg">
<link rel="stylesheet" href="/page/style.css">
</head>
<body><main class="reference">
"""


def _operations(description: Schema) -> Iterator[tuple[str, str, str, Schema]]:
    """(tag, method, path, operation) in the order of the description."""
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield operation.get("tags", ["page"])[0], method.upper(), path, operation


def _contents(tags: list[str], operations: list[tuple[str, str, str, Schema]]) -> Iterator[str]:
    for tag in tags:
        links = [
            f'<a href="#{_anchor(m, path)}">{m} {escape(path)}</a>' for own, m, path, _ in operations if own == tag
        ]
        yield f"<li>{escape(tag)}: {', '.join(links)}</li>"
    yield '<li><a href="#schemas">What is sent and answered</a></li>'


def _anchor(method: str, path: str) -> str:
    return escape(f"{method}{path}", quote=True)


def _operation(method: str, path: str, operation: Schema) -> str:
    parts = [f'<section class="card" id="{_anchor(method, path)}"><h3><code>{method} {escape(path)}</code></h3>']
    parts.append(f"<p>{_words(operation.get('description', ''))}</p>")
    if operation.get("parameters"):
        rows = [
            (f"<code>{escape(one['name'])}</code>", f"{escape(one['in'])}, {_type(one['schema'])}", _about(one))
            for one in operation["parameters"]
        ]
        parts.append(_table(("Parameter", "Is", "Means"), rows))
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        parts.append("<p>Body: " + ", ".join(_content(kind, one) for kind, one in body.items()) + "</p>")
    rows = [
        (
            escape(status),
            ", ".join(_content(kind, one) for kind, one in found.get("content", {}).items()),
            _words(found.get("description", "").removeprefix("Successful Response")),
        )
        for status, found in sorted(operation["responses"].items())
    ]
    parts.append(_table(("Status", "Answer", "When"), rows))
    return "".join(parts) + "</section>"


def _content(kind: str, found: Schema) -> str:
    plain = f"<code>{escape(kind)}</code>"
    schema = found.get("schema")
    if not schema or kind not in ("application/json",):
        return plain
    return f"{plain} {_type(schema)}"


def _schema(name: str, schema: Schema) -> str:
    parts = [f'<section class="card" id="{escape(name, quote=True)}"><h3><code>{escape(name)}</code></h3>']
    if schema.get("description"):
        parts.append(f"<p>{_words(schema['description'])}</p>")
    if "properties" not in schema:
        return "".join(parts) + f"<p>{_type(schema)}</p></section>"
    required = schema.get("required", ())
    rows = [
        (f"<code>{escape(field)}</code>", _type(own) + (" (required)" if field in required else ""), _about(own))
        for field, own in schema["properties"].items()
    ]
    return "".join(parts) + _table(("Field", "Is", "Means"), rows) + "</section>"


def _type(schema: Schema) -> str:
    """What a value is, in words; schemas with a name are links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{escape(name, quote=True)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if "prefixItems" in schema:
        return f"[{', '.join(_type(one) for one in schema['prefixItems'])}]"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return escape(str(kind)) if kind else "anything"


def _about(schema: Schema) -> str:
    """Description, limits and default."""
    inner = schema.get("schema", schema)
    found = [schema.get("description") or inner.get("description") or ""]
    for one in (inner, *inner.get("anyOf", ())):
        found += [text.format(one[key]) for key, text in LIMITS.items() if key in one]
    if inner.get("default") not in (None, "", [], {}):
        found.append(f"default {json.dumps(inner['default'])}")
    found += [f"for example {json.dumps(example, ensure_ascii=False)}" for example in inner.get("examples", ())]
    return _words("; ".join(part for part in found if part))


def _words(text: str) -> str:
    """A description as HTML: `names` in it as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(" ".join(text.split())))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` are HTML already; a last column without a word is left out."""
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
