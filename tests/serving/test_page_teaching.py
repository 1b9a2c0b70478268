"""A task taught in a real browser from ten notes of one's own, and asked at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clinprompt import api
from clinprompt.backbone.model import load_backbone
from clinprompt.prompts.artifact import load_task
from clinprompt.records import Record
from clinprompt.serving.service import Service
from clinprompt.serving.teaching import TeachSettings
from clinprompt.serving.transformers_engine import TransformersEngine
from tests.serving.browser import Watched, chromium, watched
from tests.serving.world import Running, running

pytestmark = pytest.mark.browser
CANARY = "Quackenbush"
DRUGS = [
    "aspirin",
    "heparin",
    "digoxin",
    "insulin",
    "codeine",
    "lithium",
    "warfarin",
    "morphine",
    "atropine",
    "quinine",
]
NOTES = [f"Mr {CANARY} takes {drug} {number + 1} mg daily." for number, drug in enumerate(DRUGS)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def served(browser: Any, tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "tasks").mkdir()
    engine = TransformersEngine(load_backbone("tiny"))
    with running(Service.of_folder(tmp_path / "tasks", engine), TeachSettings(steps=30)) as found:
        yield found


def describe(found: Watched, name: str) -> None:
    page = found.page
    page.click("#tab-teach")
    page.fill("#teach-name", name)
    page.fill(".label-rows .name", "Drug")
    page.fill("#teach-note", "\n---\n".join(NOTES))
    page.click("#teach button:text-is('Add')")


def mark_by_mouse(found: Watched, box: str, word: str) -> None:
    """Drag over a word, and press its label's button."""
    place = found.page.eval_on_selector(
        f"{box} .text",
        """(box, word) => {
          const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {
            const at = walker.currentNode.data.indexOf(word);
            if (at < 0) continue;
            const range = document.createRange();
            range.setStart(walker.currentNode, at);
            range.setEnd(walker.currentNode, at + word.length);
            box.scrollIntoView({block: "center"});
            const {left, right, top, bottom} = range.getBoundingClientRect();
            return {left, right, middle: (top + bottom) / 2};
          }
        }""",
        word,
    )
    mouse = found.page.mouse
    mouse.move(place["left"] + 1, place["middle"])
    mouse.down()
    mouse.move(place["right"] - 1, place["middle"], steps=4)
    mouse.up()
    found.page.click(f"{box} button.label")


@pytest.mark.slow
def test_ten_notes_teach_a_task_that_answers(
    browser: Any, served: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with watched(browser, served.url) as found:
        page = found.page
        describe(found, "drugs")
        assert page.locator(".notes > li").count() == 10
        mark_by_mouse(found, ".notes > li:nth-child(1)", "aspirin")
        for number in range(2, 11):
            page.focus(f".notes > li:nth-child({number}) .marking")
            for key in ["ArrowRight"] * 4 + ["1"]:
                page.keyboard.press(key)
        assert [text.split(",")[0] for text in page.locator(".marks li").all_inner_texts()] == DRUGS
        with page.expect_request("**/v1/teach") as going:
            page.click("#learn")
        sent = going.value.post_data_json["notes"]
        assert [note["text"] for note in sent] == NOTES
        for note, drug in zip(sent, DRUGS, strict=True):
            start = note["text"].index(drug)
            assert note["entities"] == [{"type": "Drug", "spans": [[start, start + len(drug)]]}]
        page.wait_for_selector("#lesson .curve path.line")  # while it learns
        page.wait_for_selector("#lesson >> text=answers now", timeout=240_000)
        assert "on 10 notes; each note was asked about by a prompt that was learned without it" in found.text(".score")
        with page.expect_download() as fetched:
            page.click("#lesson >> text=Download the task file")
        content = Path(fetched.value.path()).read_bytes()
        page.click("#lesson >> text=Try it")
        page.fill("#note", f"Mrs {CANARY} takes aspirin 5 mg daily.")
        with page.expect_response("**/v1/tasks/drugs/predict") as answered:
            page.keyboard.press("Control+Enter")
        assert answered.value.status == 200 and "entities" in answered.value.json()["answers"][0]
        page.wait_for_selector("[aria-label='In the note']")
        assert CANARY not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])")
    with served.client() as client:
        lesson = client.get(f"/v1/teach/{lesson_id(found)}").json()
        assert sum(lesson["losses"][-5:]) < 0.8 * sum(lesson["losses"][:5])  # it did learn
        metrics = client.get("/metrics").text
    (tmp_path / "copy.safetensors").write_bytes(content)
    card = load_task(tmp_path / "copy.safetensors").card
    assert card.metrics["leave-one-out"]["n"] == 10 and card.data[0].records == 10
    assert CANARY not in caplog.text + metrics and CANARY.encode() not in content
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()] == []


def lesson_id(found: Watched) -> str:
    asked = [address for address in found.asked if "/v1/teach/" in address]
    return asked[-1].split("/")[-1].split("?")[0]


def test_learning_can_be_cancelled_and_goes_on_without_the_page(browser: Any, served: Running) -> None:
    with watched(browser, served.url) as found:
        page = found.page
        describe(found, "drugs")
        page.focus(".notes > li:nth-child(1) .marking")
        for key in ["ArrowRight"] * 4 + ["1"]:
            page.keyboard.press(key)
        page.fill("#teach-steps", "1000")
        page.uncheck("#teach-score")
        page.click("#learn")
        page.wait_for_selector("#lesson progress")
        page.reload()  # the lesson is found again
        page.wait_for_selector("#lesson progress")
        page.click("#lesson >> text=Cancel")
        page.wait_for_selector("#lesson >> text=Cancelled")
        with served.client() as client:
            assert client.get("/v1/tasks").json()["tasks"] == [] and client.get("/v1/teach").json()["going"] is None


def start(found: Watched, name: str, kind: str, notes: list[str]) -> None:
    page = found.page
    page.click("#tab-teach")
    page.fill("#teach-name", name)
    page.check(f"#kind-{kind}")
    page.fill("#teach-note", "\n---\n".join(notes))
    page.click("#teach button:text-is('Add')")
    page.fill("#teach-steps", "3")
    page.uncheck("#teach-score")


def learned(found: Watched) -> dict[str, Any]:
    """Press Learn and wait until the task answers; what was sent."""
    with found.page.expect_request("**/v1/teach") as going:
        found.page.click("#learn")
    found.page.wait_for_selector("#lesson >> text=answers now", timeout=120_000)
    sent: dict[str, Any] = going.value.post_data_json
    return sent


def test_relations_are_taught_by_keys_alone(browser: Any, served: Running) -> None:
    with watched(browser, served.url) as found:
        page = found.page
        start(found, "given", "relations", ["Aspirin treats gout. Codeine too."])
        page.fill("#teach .label-rows >> nth=0 >> .name", "Thing")
        page.fill("#relation-rows .name", "treats")
        page.focus(".notes .marking")
        for key in ["ArrowRight", "1", "ArrowRight", "ArrowRight", "1"]:
            page.keyboard.press(key)
        chosen = page.locator(".relating select")
        shown = [chosen.nth(place).evaluate("box => box.selectedOptions[0].textContent") for place in range(3)]
        assert shown == ["Aspirin, Thing", "treats", "gout, Thing"]  # the two marks made last, in order
        for _ in range(20):
            if page.evaluate("document.activeElement.classList.contains('relate')"):
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.inner_text(".relating .marks li").startswith("Aspirin treats gout")
        page.wait_for_selector(".notes .arcs text:has-text('treats')", state="attached")
        assert "1 relation." in found.text("#teach")
        page.keyboard.press("Enter")  # the same once more is no second one
        assert page.locator(".relating .marks li").count() == 1
        page.check("#kind-entities")  # and back: nothing is lost
        assert not page.is_visible(".relating")
        page.check("#kind-relations")
        sent = learned(found)
        assert sent["notes"][0]["relations"] == [{"type": "treats", "head": 0, "tail": 1}]
        assert sent["notes"][0]["entities"] == [
            {"type": "Thing", "spans": [[0, 7]]},
            {"type": "Thing", "spans": [[15, 19]]},
        ]
        assert list(sent["relations"]) == ["treats"] and list(sent["labels"]) == ["Thing"]
        page.click(".notes .marks >> nth=0 >> button >> nth=0")  # a mark that goes takes its relations along
        assert page.locator(".relating .marks li").count() == 0
        page.click("#lesson >> text=Try it")
        page.fill("#note", "Codeine treats pain.")
        with page.expect_response("**/v1/tasks/given/predict") as answered:
            page.keyboard.press("Control+Enter")
        assert "relations" in answered.value.json()["answers"][0]


@pytest.mark.parametrize(("kind", "question"), [("summary", ""), ("answer", "Which drug does he take?")])
def test_wanted_texts_are_taught(browser: Any, served: Running, kind: str, question: str) -> None:
    with watched(browser, served.url) as found:
        page = found.page
        start(found, "texts", kind, NOTES[:2])
        page.fill(".notes > li:nth-child(1) textarea", "aspirin")
        page.click("#learn")
        lacks = "what is asked" if question else "Note 2 has no summary"
        page.wait_for_selector(f"#notice >> text={lacks}")
        page.fill(".notes > li:nth-child(2) textarea", "heparin")
        if question:
            page.fill("#teach-question", question)
        assert not page.is_visible("#teach .label-rows >> nth=0")
        sent = learned(found)
        assert [note["wanted"] for note in sent["notes"]] == ["aspirin", "heparin"]
        page.click("#lesson >> text=Try it")
        if question:
            page.wait_for_function("text => document.getElementById('question')?.value === text", arg=question)
        page.fill("#note", NOTES[2])
        with page.expect_response("**/v1/tasks/texts/predict") as answered:
            page.keyboard.press("Control+Enter")
        assert kind in answered.value.json()["answers"][0]


CALLS = ["He is well", "He has pain", "No complaints", "He has fever", "He feels fine", "Severe headache today"]
CALLS += ["No new problems", "He reports nausea", "Nothing to report", "He has a cough"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_label_is_taught_to_the_embedded_model_and_its_file_loads(browser: Any, tmp_path: Path) -> None:
    """Ten notes, the model of the package, its metaprompt; the file answers the library as it answers the page."""
    (tmp_path / "tasks").mkdir()
    backbone = load_backbone("embedded")
    service = Service.of_folder(tmp_path / "tasks", TransformersEngine(backbone))
    with running(service, TeachSettings(steps=15, folds=5)) as served:
        with watched(browser, served.url) as found:
            page = found.page
            start(found, "complaint", "labels", CALLS)
            page.fill("#teach-steps", "")
            page.check("#teach-score")
            page.fill("#teach .label-rows >> nth=0 >> .name", "no")
            page.click("#teach >> text=Add a label")
            page.fill("#teach .label-rows >> nth=0 >> .row >> nth=1 >> .name", "yes")
            page.fill("#teach-question", "Does he complain of something?")
            for number in range(1, 11):
                page.check(f".notes > li:nth-child({number}) input[value={'no' if number % 2 else 'yes'}]")
            page.click("#learn")
            page.wait_for_selector("#lesson >> text=answers now", timeout=900_000)
            assert "on 10 notes; in 5 parts" in found.text(".score")
            with page.expect_download() as fetched:
                page.click("#lesson >> text=Download the task file")
            page.click("#lesson >> text=Try it")
            page.fill("#note", "He has chest pain")
            with page.expect_response("**/v1/tasks/complaint/predict") as answered:
                page.keyboard.press("Control+Enter")
            page.wait_for_selector("[aria-label=complaint] .bars")
            said = answered.value.json()["answers"][0]
            content = Path(fetched.value.path()).read_bytes()
        with served.client() as client:
            losses = client.get(f"/v1/teach/{lesson_id(found)}").json()["losses"]
    assert sum(losses[-5:]) < sum(losses[:5])
    (tmp_path / "copy.safetensors").write_bytes(content)
    record = Record("0", "He has chest pain", question="Does he complain of something?")
    offline = api.predict(tmp_path / "copy.safetensors", [record], backbone=backbone)[0]
    assert offline.probabilities == pytest.approx(said["probabilities"], abs=1e-4)
    assert offline.record.answer == said["answer"]


def test_a_server_that_does_not_teach_says_so(browser: Any, tmp_path: Path) -> None:
    engine = TransformersEngine(load_backbone("tiny"))
    off = TeachSettings(allowed=False)
    with running(Service.of_folder(tmp_path, engine), off) as served, watched(browser, served.url) as found:
        found.page.click("#tab-teach")
        found.page.wait_for_selector("text=Tasks cannot be taught here")
        assert not found.page.is_visible("#learn")
