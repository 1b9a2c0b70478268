"""The three ways a report is written: nothing is lost or mistaken for markup in any of them."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

from clinprompt.experiments.document import (
    Document,
    Figure,
    Mark,
    Paragraph,
    Points,
    Section,
    Table,
    inline,
    plain,
    shown,
    table_csv,
    to_html,
    to_markdown,
)

TABLE = Table(
    "scores",
    ("target", "score", "remark"),
    (("`a|b`", Mark("1.5", True, "▾"), "x < y"), ("c", float("nan"), "")),
    "caption of **this**",
    remarks=1,
)
DOCUMENT = Document("A & B", [Section("One", [Paragraph("p < .05"), Points(("first", "second")), TABLE])])


def test_markdown() -> None:
    text = to_markdown(DOCUMENT)
    assert "| target | score | remark |\n| --- | ---: | --- |\n| `a\\|b` | **1.5** ▾ | x < y |\n| c | – |  |" in text
    assert "- first\n- second" in text and text.startswith("# A & B\n\n## One\n")


def test_csv_holds_what_is_shown_or_the_unrounded_data() -> None:
    assert list(csv.reader(io.StringIO(table_csv(TABLE)))) == [
        ["target", "score", "remark"],
        ["`a|b`", "1.5▾", "x < y"],
        ["c", "", ""],
    ]
    table = Table("t", ("x",), (("1.2",),), data=({"x": 1.23456, "y": None}, {"x": float("nan"), "z": 'a "b", c'}))
    assert list(csv.reader(io.StringIO(table_csv(table)))) == [
        ["x", "y", "z"],
        ["1.23456", "", ""],
        ["", "", 'a "b", c'],
    ]


class Checker(HTMLParser):
    """Every opened element is closed, and nothing is asked of a server."""

    VOID = ("meta", "img", "br")
    OPTIONAL = ("li",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        assert tag != "script" and not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID + self.OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.OPTIONAL or self.open.pop() == tag


def check_page(page: str) -> list[str]:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker.links


def test_html_is_whole_escaped_and_asks_nothing_of_a_server() -> None:
    figure = Figure("f", "<svg><text>a</text></svg>", 'says "so" & more', "below")
    page = to_html(Document("A & B", [*DOCUMENT.sections, Section("Two", [figure])]))
    links = check_page(page)
    assert [link for link in links if not link.startswith(("#", "data:image/svg+xml;base64,"))] == []
    assert "A &amp; B" in page and "x &lt; y" in page and "<b>1.5</b>&nbsp;▾" in page
    assert "<td><b>" in page and '<td class="t"><code>a|b</code>' in page
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_inline_markup() -> None:
    assert inline("a `b<c` **d**") == "a <code>b&lt;c</code> <b>d</b>"
    assert inline("one ` alone, 2 ** 3") == "one ` alone, 2 ** 3"
    assert plain("`a` is **b**") == "a is b"


def test_values_as_text() -> None:
    assert [shown(v) for v in (None, 1234567, 0.000123456, True, "x", float("nan"))] == [
        "–", "1,234,567", "0.000123", "yes", "x", "–",
    ]  # fmt: skip
