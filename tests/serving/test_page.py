"""The page in a real browser: what it shows of answers that are known, by mouse, by keys, in light and dark."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from clinprompt.corpora.brat import read_brat
from clinprompt.serving.page_routes import POLICY
from clinprompt.serving.service import Service
from clinprompt.serving.teaching import TeachSettings
from tests.models import tiny
from tests.serving.browser import Watched, chromium, watched
from tests.serving.scripted import NOTE, ScriptedEngine, scripted_folder
from tests.serving.world import Running, running

pytestmark = pytest.mark.browser

# What each item of a highlighted text covers, put together again from the document's own elements.
COVERED = """box => {
  const found = new Map();
  for (const mark of box.querySelectorAll("mark.in")) {
    for (const item of mark.dataset.items.split(" ").filter(Boolean)) {
      const start = Number(mark.dataset.start);
      const spans = found.get(item) || [];
      const length = Array.from(mark.textContent).length;
      if (spans.length && spans.at(-1)[1] === start) spans.at(-1)[1] = start + length;
      else spans.push([start, start + length]);
      found.set(item, spans);
    }
  }
  return { text: box.textContent, spans: [...found.values()] };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    backbone = tiny("llama", bos=True)
    folder = scripted_folder(tmp_path_factory.mktemp("page"), backbone)
    with running(Service.of_folder(folder, ScriptedEngine(backbone)), TeachSettings(steps=4)) as found:
        yield found


def read(page: Any, *tasks: str, note: str = NOTE) -> None:
    """Paste a note, choose tasks, press the button, wait for answers."""
    page.fill("#note", note)
    for task in tasks:
        page.check(f"#task-{task}")
    page.wait_for_selector("#read .choices:not([aria-busy])")  # fields that a task needs move the button
    page.click("text=Read the note")
    page.wait_for_selector("#results section")


def answers(served: Running, *tasks: str) -> list[dict[str, Any]]:
    body = {"documents": [{"text": NOTE, "question": "Does the patient smoke?"}]}
    with served.client() as client:
        found: list[dict[str, Any]] = client.post(f"/v1/tasks/{','.join(tasks)}/predict", json=body).json()["answers"]
    return found


def test_entities_are_highlighted_where_they_are(browser: Any, served: Running) -> None:
    """Nested, overlapping and discontinuous ones, behind a character that JavaScript counts as two."""
    with watched(browser, served.url) as found:
        read(found.page, "problems")
        covered = found.page.eval_on_selector("#results .text", COVERED)
        entities = answers(served, "problems")[0]["entities"]
        assert covered["text"] == NOTE  # no word twice, none lost
        assert sorted(map(str, covered["spans"])) == sorted(str(entity["spans"]) for entity in entities)
        assert any(len(entity["spans"]) > 1 for entity in entities) and len(entities) == 10
        # Overlapping underlines are in different lanes: the text has as many as overlap at most.
        assert found.page.eval_on_selector("#results .text", "box => box.style.getPropertyValue('--depth')") == "2"
        assert "stroke" in found.text("[aria-label='Not in the note']")
        assert "stroke" not in found.text("[aria-label='In the note']")
        label = found.page.get_attribute("#results mark.in:has-text('aspirin')", "aria-label")
        assert label.startswith("aspirin, Drug, confidence 9")


def test_all_kinds_of_answers(browser: Any, served: Running) -> None:
    with watched(browser, served.url) as found:
        read(found.page, "problems", "reasons", "smokes", "summary")
        page = found.page
        page.wait_for_selector(".arcs path[marker-end]", state="attached")
        assert page.eval_on_selector_all(".arcs text", "all => all.map(one => one.textContent)") == [
            "given for",
            "causes",
        ]
        assert "aspirin\tgiven for\tchronic heart failure" in found.text(
            "[aria-label='In the note'] details[open] table"
        )
        assert "69.6 %" in found.text("[aria-label='smokes'] .bars li:first-child")
        assert page.input_value("#question") == "Does the patient smoke?"  # the task's own, ready to be changed
        assert "A woman with heart failure" in found.text("[aria-label='summary']")
        assert "She denies fever" in found.text("[aria-label='summary'] .source")
        page.uncheck("#show-problems")
        assert page.locator("#results mark:has-text('severe')").count() == 0
        assert page.locator("#results mark:has-text('aspirin')").count() == 1


def test_two_versions_side_by_side(browser: Any, served: Running) -> None:
    with watched(browser, served.url) as found:
        read(found.page, "problems", "problems-2", "smokes", "smokes-2")
        page = found.page
        page.click("summary:has-text('Compare')")
        box = page.locator("details:has-text('Compare')").last
        box.get_by_text("4 the same, 6 only left, 3 only right").wait_for()
        columns = box.locator(".columns > div")
        assert columns.nth(1).locator("mark.differs:has-text('fever')").count() == 1
        assert columns.nth(0).locator("mark:has-text('fever')").count() == 0
        assert columns.nth(0).locator("mark.differs:has-text('aspirin')").count() == 0
        left, right = box.locator("select").all()
        left.select_option(label="smokes")
        right.select_option(label="smokes-2")
        assert "They differ." in box.inner_text() and "+37.3" in box.inner_text()


def test_downloads(browser: Any, served: Running, tmp_path: Path) -> None:
    def content(button: str) -> bytes:
        with found.page.expect_download() as going:
            found.page.click(f"#results button:text-is('{button}')")
        return Path(going.value.path()).read_bytes()

    with watched(browser, served.url) as found:
        read(found.page, "problems", "reasons")
        whole, brat, fhir = json.loads(content("JSON")), content("BRAT"), json.loads(content("FHIR"))
    expected = answers(served, "problems", "reasons")
    assert whole["document"]["text"] == NOTE and whole["answers"] == expected
    with zipfile.ZipFile(io.BytesIO(brat)) as archive:
        assert sorted(archive.namelist()) == [f"{t}/note.{s}" for t in ("problems", "reasons") for s in ("ann", "txt")]
        archive.extractall(tmp_path)
    for answer in expected:
        [record] = read_brat(tmp_path / answer["task"] / "note.txt")
        assert record.text == NOTE
        assert sorted((e.type, e.spans) for e in record.entities) == sorted(
            (e["type"], tuple(map(tuple, e["spans"]))) for e in answer["entities"]
        )
        assert len(record.relations) == len(answer.get("relations", []))
    kinds = [entry["resource"]["resourceType"] for entry in fhir["entry"]]
    assert kinds.count("MedicationStatement") >= 2 and "Condition" in kinds and fhir["type"] == "collection"


def test_task_cards(browser: Any, served: Running) -> None:
    with watched(browser, served.url) as found:
        page = found.page
        page.click("#tab-cards")
        page.click("summary:has-text('smokes-2')")
        page.wait_for_selector("[data-name='smokes-2'] dl")
        shown = found.text("[data-name='smokes-2']")
        assert "Does the patient smoke?" in shown and "5 vectors of 32 numbers: 160 parameters" in shown
        page.click("[data-name='smokes-2'] >> text=The prompt inspected")
        page.wait_for_selector("[data-name='smokes-2'] .token")
        assert page.locator("[data-name='smokes-2'] .token").count() == 5 * 4
        page.click("[data-name='smokes-2'] >> text=Ask it")
        assert page.is_checked("#task-smokes-2") and not page.is_checked("#task-smokes")


def test_without_a_mouse(browser: Any, served: Running) -> None:
    """From loading to a taught task's marks, with keys alone."""
    with watched(browser, served.url) as found:
        page = found.page
        page.wait_for_selector("#task-problems")
        found.tab_to("note")
        page.keyboard.insert_text(NOTE)
        found.tab_to("task-problems")
        page.keyboard.press("Space")
        page.keyboard.press("Shift+Tab")
        found.tab_to("note")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#results mark")
        expect(page.locator("#results")).to_be_focused()
        for _ in range(4):  # the three downloads, then the first entity
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.matches('mark') && document.activeElement.className").count("lit")
        page.focus("#tab-read")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("document.activeElement.id") == "tab-teach" and page.is_visible("#teach")
        found.tab_to("teach-name")
        page.keyboard.type("by-keys")
        page.focus(".label-rows .name")
        page.keyboard.type("Dose")
        page.focus("#teach-note")
        page.keyboard.insert_text("🩺 Takes 5 mg or 10 mg daily.")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.focus(".marking")
        keys = ["ArrowRight"] * 3 + ["Shift+ArrowRight", "1"] + ["ArrowRight"] * 2 + ["Shift+ArrowRight", "+"]
        for key in keys:
            page.keyboard.press(key)
        assert found.text(".marks li").startswith("5 mg … 10 mg, Dose")
        with page.expect_request("**/v1/teach") as going:
            found.tab_to("learn")
            page.keyboard.press("Enter")
        sent = going.value.post_data_json
        assert sent["notes"] == [
            {"text": "🩺 Takes 5 mg or 10 mg daily.", "entities": [{"type": "Dose", "spans": [[8, 12], [16, 21]]}]}
        ]
        page.wait_for_selector("#lesson >> text=answers now")


# WCAG 2: contrast of an element's text with the nearest painted ground behind it.
CONTRAST = """node => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const painted = one => (parse(getComputedStyle(one).backgroundColor)[3] ?? 1) > 0;
  let ground = node;
  while (ground !== document.body && !painted(ground)) ground = ground.parentElement;
  const linear = c => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const colors = [getComputedStyle(node).color, getComputedStyle(ground).backgroundColor];
  const [a, b] = colors.map(parse).map(luminance);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(browser: Any, served: Running, scheme: str) -> None:
    with watched(browser, served.url, color_scheme=scheme) as found:
        read(found.page, "problems", "smokes")
        ground = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        bright = sum(map(int, ground.removeprefix("rgb(").rstrip(")").split(","))) > 384
        assert bright == (scheme == "light")
        for place in (".text", "h2", "#note-size", ".kind", "button.main", "button.plain", ".warning h2", "[role=tab]"):
            assert found.page.eval_on_selector(place, CONTRAST) >= 4.5, place
        found.page.eval_on_selector_all(".legend span", "all => all.forEach(one => one.style.color = 'var(--own)')")
        assert found.page.eval_on_selector(".legend span", CONTRAST) >= 4.5
        assert found.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_narrow_window_does_not_scroll_sideways(browser: Any, served: Running) -> None:
    with watched(browser, served.url, viewport={"width": 360, "height": 700}) as found:
        read(found.page, "problems", "reasons", "summary")
        for tab in ("read", "cards", "teach"):
            found.page.click(f"#tab-{tab}")
            assert found.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab


def test_notes_are_text_and_nothing_else(browser: Any, served: Running) -> None:
    note = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script> takes aspirin"
    with watched(browser, served.url) as found:
        read(found.page, "problems", note=note)
        assert found.page.locator("#results img, #results script").count() == 0
        assert found.page.title() == "clinprompt" and note in found.text("#results .text")


def test_the_policy_keeps_the_page_at_home(browser: Any, served: Running) -> None:
    with served.client() as client:
        for path in ("/", "/page/main.js", "/page/style.css"):
            answer = client.get(path)
            assert answer.headers["Content-Security-Policy"] == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert client.get("/page/..%2Fapp.py").status_code == 404 and client.get("/page/none.js").status_code == 404
    context = browser.new_context()
    page = context.new_page()
    page.goto(served.url)
    tried = "fetch('http://127.0.0.1:9/', {mode: 'no-cors'}).then(() => 'sent', () => 'refused')"
    blocked = (
        "new Promise(done => document.addEventListener('securitypolicyviolation', e => done(e.violatedDirective)))"
    )
    page.evaluate(f"window.blocked = {blocked}; null")
    assert page.evaluate(tried) == "refused" and page.evaluate("window.blocked") == "connect-src"
    context.close()


def test_errors_are_for_people(browser: Any, served: Running) -> None:
    with watched(browser, served.url) as found:
        page = found.page
        page.wait_for_selector("#task-problems")
        page.click("text=Read the note")
        assert "There is no note yet" in found.text("#notice")
        page.fill("#note", "A note.")
        page.click("text=Read the note")
        assert "No task is chosen" in found.text("#notice")
        page.click("#tab-teach")
        page.click("#learn")
        assert "has no name" in found.text("#notice")


def drop(found: Watched, selector: str, text: str) -> None:
    """Drop a file with this text."""
    data = found.page.evaluate_handle(
        "text => { const data = new DataTransfer(); data.items.add(new File([text], 'a.txt', {type: 'text/plain'})); "
        "return data; }",
        text,
    )
    found.page.dispatch_event(selector, "drop", {"dataTransfer": data})


def test_a_dropped_file_is_read(browser: Any, served: Running) -> None:
    with watched(browser, served.url) as found:
        drop(found, "#note", "Takes aspirin.\r\nDaily.")
        expect(found.page.locator("#note")).to_have_value("Takes aspirin.\nDaily.")
