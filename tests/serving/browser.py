"""A headless Chromium on the page, watched: what it asks for, what it complains about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> str:
    """The path of a Chromium; skips the test where there is none."""
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra: dev)")
    for name in PROGRAMS:
        if (found := shutil.which(name)) is not None:
            return found
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    path = program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: containers run tests as root. The page under test is our own.
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@dataclass
class Watched:
    """A page, the addresses it asked for, and its complaints."""

    page: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def tab_to(self, identifier: str, most: int = 40) -> None:
        """Press Tab until the element with this id has the focus."""
        for _ in range(most):
            if self.page.evaluate("document.activeElement.id") == identifier:
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{identifier} cannot be reached with Tab")


@contextmanager
def watched(browser: Any, url: str, **settings: Any) -> Iterator[Watched]:
    """The page at `url`. At the end: nothing was asked of another origin, and nothing went wrong in its scripts."""
    context = browser.new_context(**settings)
    context.set_default_timeout(60_000)
    page = context.new_page()
    found = Watched(page)
    page.on("request", lambda request: found.asked.append(request.url))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("console", lambda message: found.complaints.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url)
        yield found
        outside = [address for address in found.asked if not address.startswith((url, f"blob:{url}", "data:"))]
        assert not outside and not found.complaints, (outside, found.complaints)
    finally:
        context.close()
