"""The spaCy component: spans select what was found, what tokens cannot hold is kept, a saved pipe comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

spacy = pytest.importorskip("spacy", reason="extra `spacy` is not installed")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from clinprompt.backbone.model import load_backbone  # noqa: E402
from clinprompt.doors.spacy_pipe import write_doc  # noqa: E402
from clinprompt.errors import ArtifactError, TaskError  # noqa: E402
from clinprompt.records import Entity, Record, Relation  # noqa: E402
from clinprompt.tasks.codec import Prediction  # noqa: E402
from clinprompt.tasks.definition import TaskDefinition  # noqa: E402
from tests.doors.notes import records  # noqa: E402
from tests.doors.tasks import NER, NLI, QA, RELATE, task_file  # noqa: E402

BLANK = spacy.blank("en")
LINK = TaskDefinition.model_validate(RELATE)
TEXT = "Takes aspirin for headaches."


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A task file of each kind, by name of the task."""
    folder, backbone = tmp_path_factory.mktemp("tasks"), load_backbone("tiny")
    found = {}
    for seed, definition in enumerate((NER, NLI, QA, RELATE)):
        path = folder / f"{definition['name']}.safetensors"
        task_file(backbone, definition, path, seed)
        found[definition["name"]] = str(path)
    return found


def pipeline(*tasks: str, **config: Any) -> Any:
    nlp = spacy.blank("en")
    nlp.add_pipe("clinprompt", config={"tasks": list(tasks), "backbone": "tiny", **config})
    return nlp


def said(doc: Any, task: str) -> Any:
    return doc._.clinprompt[task]


@given(records(), st.sampled_from(["expand", "contract", "strict"]))
def test_every_fragment_is_a_span_or_said_to_be_misaligned(record: Record, alignment: str) -> None:
    pipeline_extensions()
    doc = BLANK.make_doc(record.text)
    assert doc.text == record.text
    write_doc(doc, LINK, Prediction(record), alignment)
    group = doc.spans["relate"]
    wanted = [(e.id, e.type, span) for e in record.entities for span in e.spans]
    off = {(m["id"], tuple(m["span"])): m["placed"] for m in said(doc, "relate")["misaligned"]}
    exact = [w for w in wanted if (w[0], w[2]) not in off]
    placed = [(s.id_, s.label_, (s.start_char, s.end_char)) for s in group]
    assert [p for p in placed if p in exact] == exact
    assert len(placed) == len(exact) + sum(off.values())
    assert alignment != "strict" or not any(off.values())
    for identifier, kind, (start, end) in placed if alignment == "expand" else []:
        assert any((i, k) == (identifier, kind) and start <= a and b <= end for i, k, (a, b) in wanted)
    assert [(e["id"], [tuple(s) for s in e["spans"]]) for e in said(doc, "relate")["entities"]] == [
        (e.id, list(e.spans)) for e in record.entities
    ]
    assert group.attrs["discontinuous"] == [e.id for e in record.entities if len(e.spans) > 1]
    again = spacy.tokens.Doc(BLANK.vocab).from_bytes(doc.to_bytes())
    assert again._.clinprompt == doc._.clinprompt and len(again.spans["relate"]) == len(group)


def pipeline_extensions() -> None:
    from clinprompt.doors.spacy_pipe import _register_extensions

    _register_extensions()


def test_relations_hold_the_spans_of_both_mentions() -> None:
    pipeline_extensions()
    drug, pain = Entity("T1", "Drug", ((6, 13),)), Entity("T2", "Problem", ((0, 5), (18, 27)))
    doc = BLANK.make_doc(TEXT)
    write_doc(doc, LINK, Prediction(Record("d", TEXT, (drug, pain), (Relation("treats", "T1", "T2"),))), "expand")
    ((task, kind, head, tail),) = doc._.relations
    assert (task, kind) == ("relate", "treats")
    assert [s.text for s in head] == ["aspirin"] and [s.text for s in tail] == ["Takes", "headaches"]
    assert doc.spans["relate"].attrs["discontinuous"] == ["T2"]


def test_found_by_name_and_answers_as_predict_does(files: dict[str, str]) -> None:
    from clinprompt import api

    nlp = pipeline(files["find"], files["infer"])
    texts = [TEXT, "Gout.", "", "No complaints today."]
    docs = [nlp.make_doc(text) for text in texts]
    for doc in docs:
        doc._.clinprompt_input = {"hypothesis": "He is ill."}
    done = list(nlp.pipe(docs, batch_size=3))
    assert [doc.text for doc in done] == texts
    backbone = load_backbone("tiny")
    expected = api.predict(files["find"], texts, backbone=backbone)
    for doc, prediction in zip(done, expected, strict=True):
        assert [(s.start_char, s.end_char) for s in doc.spans["find"]] == [
            e.spans[0] for e in prediction.record.entities
        ]
        assert len(said(doc, "find")["ungrounded"]) == len(prediction.ungrounded)
        assert set(doc.cats) == {"infer/yes", "infer/no"} and sum(doc.cats.values()) == pytest.approx(1)
    one = nlp.make_doc(TEXT)
    one._.clinprompt_input = {"hypothesis": "He is ill."}
    assert nlp(one).cats == pytest.approx(done[0].cats, abs=1e-5)


def test_questions_and_given_entities(files: dict[str, str]) -> None:
    nlp = pipeline(files["ask"], files["relate"], entities="mine")
    doc = nlp.make_doc(TEXT)
    doc._.clinprompt_input = {"question": "What?", "options": {"A": "aspirin", "B": "gout"}}
    doc.spans["mine"] = [doc.char_span(6, 13, label="Drug"), doc.char_span(18, 27, label="Problem")]
    doc = nlp(doc)
    assert set(doc.cats) == {"ask/A", "ask/B"}
    assert [e["text"] for e in said(doc, "relate")["entities"]] == ["aspirin", "headaches"]
    assert len(doc._.relations) == len(said(doc, "relate")["relations"])
    alone = nlp.make_doc(TEXT)
    alone._.clinprompt_input = {"question": "What?", "options": {"A": "a", "B": "b"}}
    with pytest.raises(TaskError, match="no such span group"):
        nlp(alone)
    alone.spans["mine"] = []
    assert said(nlp(alone), "relate")["relations"] == []


def test_a_saved_pipe_needs_none_of_its_first_files(files: dict[str, str], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.safetensors"
    shutil.copy(files["find"], copy)
    nlp = pipeline(str(copy), alignment="contract")
    before = said(nlp(TEXT), "find")
    nlp.to_disk(tmp_path / "pipe")
    nlp.to_disk(tmp_path / "pipe")  # again, over itself
    copy.unlink()
    again = spacy.load(tmp_path / "pipe")
    assert said(again(TEXT), "find") == before
    assert again.get_pipe("clinprompt").alignment == "contract"
    (tmp_path / "pipe" / "clinprompt" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a saved clinprompt component"):
        spacy.load(tmp_path / "pipe")


def test_errors_name_the_cure(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="`alignment` is one of"):
        pipeline(files["find"], alignment="loose")
    with pytest.raises(TaskError, match="each once"):
        pipeline(files["find"], files["find"])
    with pytest.raises(TaskError, match="set `metaprompt`"):
        pipeline("bc5cdr")
    with pytest.raises(ArtifactError, match="no such task file"):
        pipeline(str(tmp_path / "none.safetensors"))(TEXT)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(ArtifactError):
        pipeline(str(broken))
    nlp = pipeline(files["infer"])
    with pytest.raises(TaskError, match=r"clinprompt_input = \{'hypothesis'"):
        nlp("SECRET")
    seen: list[str] = []
    nlp.set_error_handler(lambda name, _pipe, docs, error: seen.append(f"{name} {len(docs)} {error}"))
    assert len(list(nlp.pipe(["SECRET", "b"]))) == 2
    assert len(seen) == 1 and seen[0].startswith("clinprompt 2 task 'infer'") and "SECRET" not in seen[0]
