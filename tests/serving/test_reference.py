"""The API described for people: everything in it, every link leads somewhere, nothing from another place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from clinprompt.serving.app import create_app
from clinprompt.serving.page_routes import POLICY
from clinprompt.serving.reference import reference_page
from tests.models import tiny
from tests.serving.world import folder_of_tasks, service_on


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    backbone = tiny("llama", bos=True)
    folder = folder_of_tasks(tmp_path_factory.mktemp("reference"), backbone, ("summary",))
    with TestClient(create_app(service_on(folder, backbone=backbone))) as found:
        yield found


class Links(HTMLParser):
    """Where a document points, what in it can be pointed at, and whether its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.to: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.to += [value for name in ("href", "src", "action") if (value := found.get(name)) is not None]
        self.ids += [value for value in [found.get("id")] if value is not None]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_nothing_is_loaded_from_elsewhere(client: TestClient) -> None:
    for address in ("/docs", "/"):
        found = client.get(address)
        assert found.status_code == 200 and found.headers["Content-Security-Policy"] == POLICY
        assert not re.search(r"(https?:)?//\w", found.text), address
    assert "<script" not in client.get("/docs").text
    assert client.get("/redoc").status_code == 404


def test_it_names_every_operation_and_field_and_its_links_lead_somewhere(client: TestClient) -> None:
    text, api = client.get("/docs").text, client.get("/openapi.json").json()
    links = Links()
    links.feed(text)
    assert not links.open and len(set(links.ids)) == len(links.ids)
    for link in links.to:
        if link.startswith("#"):
            assert link[1:] in links.ids, link
        else:
            assert client.get(link).status_code == 200, link
    said = unescape(re.sub("</?code>", "", text))
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in said
            assert " ".join(operation["description"].replace("`", "").split()) in said, "every route says what it does"
    for name, schema in api["components"]["schemas"].items():
        assert name in links.ids
        assert all(f"<code>{field}</code>" in text for field in schema.get("properties", ()))


def test_words_of_a_description_are_never_markup() -> None:
    evil = "<script>alert('x')</script>"
    schema = {"description": evil, "properties": {evil: {"enum": [evil], "description": evil, "default": evil}}}
    operation = {
        "description": evil,
        "parameters": [{"name": evil, "in": "query", "schema": {"type": "string", "pattern": evil}}],
        "requestBody": {"content": {evil: {}}},
        "responses": {
            "200": {"description": evil, "content": {"application/json": {"schema": {"$ref": f"#/x/{evil}"}}}}
        },
    }
    info = {"title": evil, "version": evil, "description": evil}
    paths = {f"/{evil}": {"get": operation}}
    page = reference_page({"info": info, "paths": paths, "components": {"schemas": {evil: schema}}})
    assert "<script" not in page and "&lt;script&gt;" in page
