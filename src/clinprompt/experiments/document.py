"""A report as data: sections of paragraphs, tables and figures, written as Markdown, CSV and one HTML page."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files as package_files
from typing import Any


@dataclass(frozen=True, slots=True)
class Mark:
    """A cell of a table that is more than its text: bold, or followed by a sign."""

    text: str
    bold: bool = False
    sign: str = ""


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Points:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """`name` is that of its CSV file. `data`: what the CSV holds, unrounded, one dict a row; without it the shown rows.
    The first `texts` and the last `remarks` columns are words and stand on the left; the others are numbers and stand
    on the right."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""
    data: tuple[dict[str, Any], ...] = ()
    texts: int = 1
    remarks: int = 0

    def is_text(self, column: int) -> bool:
        return column < self.texts or column >= len(self.columns) - self.remarks


@dataclass(frozen=True)
class Figure:
    """`alt` says what a person who does not see it should know."""

    name: str
    svg: str
    alt: str
    caption: str = ""


LONG_TEXT = 44  # characters
Block = Paragraph | Points | Table | Figure


@dataclass
class Section:
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Document:
    title: str
    sections: list[Section] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Table)]

    @property
    def figures(self) -> list[Figure]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


def shown(value: Any) -> str:
    """A value as text: thousands with commas, three significant digits, an en dash for what there is none of."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, Mark):
        return value.text
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# -- CSV -------------------------------------------------------------------------------------------------


def table_csv(table: Table) -> str:
    """RFC 4180 with a header; what there is none of is an empty field."""
    rows = table.data or tuple(dict(zip(table.columns, row, strict=True)) for row in table.rows)
    columns = list(dict.fromkeys(key for row in rows for key in row)) or list(table.columns)
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows([{key: _plain(value) for key, value in row.items()} for row in rows])
    return out.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Mark):
        return value.text + value.sign
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


# -- Markdown --------------------------------------------------------------------------------------------


def to_markdown(document: Document) -> str:
    """GitHub's Markdown; figures are files beside it."""
    parts = [f"# {document.title}"]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Points):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Figure):
        return f"![{block.alt}]({block.name}.svg)" + (f"\n\n{block.caption}" if block.caption else "")
    lines = [_row(block.columns), _row(["---" if block.is_text(i) else "---:" for i in range(len(block.columns))])]
    lines += [_row([_markdown_cell(value) for value in row]) for row in block.rows]
    return "\n".join(lines) + (f"\n\n{block.caption}" if block.caption else "")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(value: Any) -> str:
    text = shown(value).replace("|", "\\|").replace("\n", " ")
    if not isinstance(value, Mark):
        return text
    return (f"**{text}**" if value.bold else text) + (f" {value.sign}" if value.sign else "")


# -- HTML ------------------------------------------------------------------------------------------------


def to_html(document: Document) -> str:
    """One page that asks nothing of any server: style and figures are inside, there is no script."""
    style = (package_files("clinprompt.experiments") / "report.css").read_text(encoding="utf-8")
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f"<title>{escape(document.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
    )
    parts = [f"<h1>{escape(document.title)}</h1>", _contents(document)]
    for number, section in enumerate(document.sections):
        parts.append(f'<section id="s{number}"><h2>{escape(section.title)}</h2>')
        parts += [_html(block) for block in section.blocks]
        parts.append("</section>")
    return head + "\n".join(parts) + "\n</body>\n</html>\n"


def _contents(document: Document) -> str:
    links = [f'<li><a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(document.sections)]
    return "<nav><ul>" + "".join(links) + "</ul></nav>"


def _html(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{inline(block.text)}</p>"
    if isinstance(block, Points):
        return "<ul>" + "".join(f"<li>{inline(item)}" for item in block.items) + "</ul>"
    caption = f"<figcaption>{inline(block.caption)}</figcaption>" if block.caption else ""
    if isinstance(block, Figure):
        data = base64.b64encode(block.svg.encode()).decode()
        image = f'<img alt="{escape(block.alt)}" src="data:image/svg+xml;base64,{data}">'
        return f"<figure>{image}{caption}</figure>"
    header = "".join(_cell("th", block.is_text(i), name, escape(name)) for i, name in enumerate(block.columns))
    rows = "".join(
        "<tr>" + "".join(_cell("td", block.is_text(i), shown(v), _html_cell(v)) for i, v in enumerate(row)) + "</tr>"
        for row in block.rows
    )
    body = f"<div><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>"
    return f"<figure class=table>{body}{caption}</figure>"


def _cell(tag: str, is_text: bool, text: str, content: str) -> str:
    """Long texts may break, others stand on one line."""
    kinds = [name for name, holds in (("t", is_text), ("w", len(text) > LONG_TEXT)) if holds]
    attribute = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<{tag}{attribute}>{content}</{tag}>"


def _html_cell(value: Any) -> str:
    text = inline(shown(value))
    if not isinstance(value, Mark):
        return text
    return (f"<b>{text}</b>" if value.bold else text) + (f"&nbsp;{escape(value.sign)}" if value.sign else "")


def inline(text: str) -> str:
    """Markdown's `code` and **bold** as HTML, everything else escaped."""
    parts = escape(text, quote=False).split("`")
    coded = [f"<code>{part}</code>" if i % 2 else _bold(part) for i, part in enumerate(parts)]
    return "".join(coded) if len(parts) % 2 else _bold(escape(text, quote=False))


def plain(text: str) -> str:
    """Without Markdown's signs for code and bold."""
    return text.replace("`", "").replace("**", "")


def _bold(text: str) -> str:
    parts = text.split("**")
    if len(parts) % 2 == 0:
        return text
    return "".join(f"<b>{part}</b>" if i % 2 else part for i, part in enumerate(parts))
