"""`check_task` on tasks made wrong in one way each: the finding, its place, and no text of a note in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clinprompt.checking import Report, check_task

Rows = list[dict[str, Any]]
SECRET = "Zebedee"  # stands in every note; no message may repeat it


def ner_rows(start: int, n: int, shift: int = 0) -> Rows:
    rows = []
    for i in range(start, start + n):
        text = f"{SECRET} {i} takes aspirin daily for headache."
        at, ache = text.index("aspirin") + shift, text.index("headache") + shift
        entities = [[at, at + 7, "Drug"], [ache, ache + 8, "Problem"]]
        rows.append({"id": f"note-{i}", "text": text, "entities": entities})
    return rows


def write_task(folder: Path, splits: dict[str, Rows], **changes: Any) -> Path:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw = {
        "name": "drugs",
        "type": "ner",
        "labels": {"Drug": "a medicine", "Problem": "a symptom or disease"},
        "format": "jsonl",
        "files": {split: f"{split}.jsonl" for split in splits},
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(raw | changes), encoding="utf-8")
    return path


def good_splits() -> dict[str, Rows]:
    return {"train": ner_rows(0, 40), "validation": ner_rows(100, 20), "test": ner_rows(200, 20)}


def codes(report: Report, severity: str) -> list[str]:
    assert not any(SECRET in line for line in report.lines())
    assert SECRET not in json.dumps(report.as_dict())
    return [finding.code for finding in report.findings if finding.severity == severity]


def test_a_sound_task(tmp_path: Path) -> None:
    report = check_task(write_task(tmp_path, good_splits()))
    assert report.ok
    assert report.findings == []
    assert report.counts == {"train": 40, "validation": 20, "test": 20}
    assert report.labels["train"] == {"Drug": 40, "Problem": 40}
    assert report.as_dict()["ok"] is True
    assert report.lines()[-1] == "0 errors, 0 warnings"


def test_unknown_labels_are_counted_and_located(tmp_path: Path) -> None:
    splits = good_splits()
    for row in splits["train"][3:5]:
        row["entities"][0][2] = "Durg"
    report = check_task(write_task(tmp_path, splits))
    (finding,) = report.errors
    assert (finding.code, finding.split, finding.count) == ("unknown-label", "train", 2)
    assert finding.places == ("note-3", "note-4")
    assert "'Durg'" in str(finding)


def test_a_note_mapped_as_label_is_not_quoted(tmp_path: Path) -> None:
    rows = [{"text": "a", "hypothesis": "b", "label": f"{SECRET} is a long note number {i}"} for i in range(12)]
    path = write_task(tmp_path, {"train": rows}, type="nli", labels={"yes": "it follows"})
    report = check_task(path)
    assert "unknown-label" in codes(report, "error")


def test_shifted_offsets(tmp_path: Path) -> None:
    splits = good_splits() | {"test": ner_rows(200, 20, shift=-1)}
    report = check_task(write_task(tmp_path, splits))
    assert codes(report, "error") == ["offsets"]
    assert "look shifted" in str(report.errors[0])


def test_offsets_beyond_the_text_are_all_reported_with_their_lines(tmp_path: Path) -> None:
    splits = good_splits()
    for index in (2, 7, 11):
        splits["train"][index]["entities"][1] = [900, 908, "Problem"]
    report = check_task(write_task(tmp_path, splits))
    assert codes(report, "error") == ["unreadable"] * 3
    assert [f"train.jsonl:{line}:" in str(e) for line, e in zip((3, 8, 12), report.errors, strict=True)] == [True] * 3
    assert report.counts["train"] == 37, "the other records are checked all the same"


def test_brat_mentions_that_do_not_match_are_all_reported(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for name, start in (("good", 0), ("bad", 3), ("worse", 4)):
        (folder / f"{name}.txt").write_text(f"aspirin for headache, {SECRET}.", encoding="utf-8")
        lines = [
            f"T1\tDrug {start} {start + 7}\taspirin",
            "T2\tProblem 12 20\theadache",
            "R1\tTreats Arg1:T1 Arg2:T2",
        ]
        if name == "worse":
            lines.append("T3\tProblem 1 5\theadache")
        (folder / f"{name}.ann").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = check_task(write_task(tmp_path, {}, format="brat", files={"train": "train"}))
    found = [str(error) for error in report.errors if error.code == "unreadable"]
    assert [("bad.ann:1:" in e, "worse.ann:1:" in e, "worse.ann:4:" in e) for e in found] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert report.counts["train"] == 3
    codes(report, "error")


def test_duplicates_and_contradictions(tmp_path: Path) -> None:
    splits = good_splits()
    again = json.loads(json.dumps(splits["train"][0])) | {"id": "again"}
    other = json.loads(json.dumps(splits["train"][1])) | {"id": "other"}
    other["entities"].pop()
    splits["train"] += [again, other]
    report = check_task(write_task(tmp_path, splits))
    assert codes(report, "warning") == ["duplicate", "contradiction"]
    duplicate, contradiction = report.warnings
    assert (duplicate.count, duplicate.places) == (2, ("again", "other"))
    assert (contradiction.count, contradiction.places) == (1, ("other",))


def test_overlap_between_splits(tmp_path: Path) -> None:
    splits = good_splits()
    splits["test"] += [row | {"id": f"leak-{row['id']}"} for row in splits["train"][:2]]
    report = check_task(write_task(tmp_path, splits))
    (finding,) = report.errors
    assert (finding.code, finding.split, finding.count) == ("overlap", "test", 2)
    assert finding.places == ("leak-note-0", "leak-note-1")


def test_patients_on_both_sides(tmp_path: Path) -> None:
    splits = good_splits()
    for split in ("train", "test"):
        splits[split][0]["group"] = "patient-7"
    report = check_task(write_task(tmp_path, splits))
    (finding,) = report.errors
    assert (finding.code, finding.split, finding.places) == ("group-overlap", "test", ("note-200",))


def test_empty_examples_and_splits(tmp_path: Path) -> None:
    splits = good_splits() | {"validation": []}
    splits["train"][4] = {"id": "blank", "text": "  ", "entities": []}
    report = check_task(write_task(tmp_path, splits))
    assert {(e.code, e.split) for e in report.errors} == {("empty-text", "train"), ("empty-split", "validation")}
    assert next(e for e in report.errors if e.code == "empty-text").places == ("blank",)


def test_no_entities_at_all(tmp_path: Path) -> None:
    splits = good_splits()
    splits["train"] = [row | {"entities": []} for row in splits["train"]]
    assert codes(check_task(write_task(tmp_path, splits)), "error") == ["no-entities"]


def test_long_examples_are_counted_only_with_a_window(tmp_path: Path) -> None:
    splits = good_splits()
    splits["test"][0]["text"] += " word" * 50
    path = write_task(tmp_path, splits)

    def length(text: str) -> int:
        return len(text.split())

    report = check_task(path, length=length, window=20)
    (finding,) = report.warnings
    assert (finding.code, finding.split, finding.count, finding.places) == ("long", "test", 1, ("note-200",))
    assert report.tokens["test"]["longest"] == 57
    assert check_task(path, length=length).warnings == []
    assert check_task(path).tokens == {}


def test_labels_without_example_or_description(tmp_path: Path) -> None:
    labels = {"Drug": "a medicine", "Problem": "", "Dose": "an amount"}
    report = check_task(write_task(tmp_path, good_splits(), labels=labels))
    assert codes(report, "warning") == ["unused-label", "no-description"]
    assert "Dose" in str(report.warnings[0])
    assert "Problem" in str(report.warnings[1])


def test_missing_splits_are_said(tmp_path: Path) -> None:
    report = check_task(write_task(tmp_path, {"train": ner_rows(0, 30)}))
    assert report.ok
    assert codes(report, "warning") == ["no-validation", "no-test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lables": {}}, "unknown key `lables`"),
        ({"type": "nre"}, "type"),
        ({"format": "jsnol"}, "Did you mean 'jsonl'"),
        ({"format": None}, "no `format`"),
        ({"files": {}}, "no `files`"),
        ({"reader": {"no_such": 1}}, "no_such"),
    ],
)
def test_a_task_file_that_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    report = check_task(write_task(tmp_path, good_splits(), **change))
    assert codes(report, "error") == ["task-file"]
    assert message in str(report.errors[0])


def test_files_that_are_not_there(tmp_path: Path) -> None:
    path = write_task(tmp_path, good_splits())
    (tmp_path / "test.jsonl").unlink()
    report = check_task(path)
    assert ("unreadable", "test") in {(e.code, e.split) for e in report.errors}
    assert "no such file" in report.lines()[-2] or any("no such file" in str(e) for e in report.errors)
    assert report.counts["train"] == 40, "the other splits are still checked"


def test_question_answering_gold(tmp_path: Path) -> None:
    rows: Rows = [
        {"id": f"q{i}", "text": "", "question": f"Which, {i}?", "options": ["one", "two"], "answer": "A"}
        for i in range(20)
    ]
    rows[3]["question"] = ""
    del rows[5]["answer"]
    report = check_task(write_task(tmp_path, {"train": rows}, type="qa", labels={}))
    assert {(e.code, e.places) for e in report.errors} == {("no-input", ("q3",)), ("no-gold", ("q5",))}
    assert report.labels["train"] == {"A": 19}


def test_relations_out_of_reach_are_counted(tmp_path: Path) -> None:
    rows: Rows = []
    for i in range(12):
        text = f"{SECRET} {i} takes aspirin. The headache is gone."
        at, ache = text.index("aspirin"), text.index("headache")
        rows.append(
            {
                "id": f"n{i}",
                "text": text,
                "entities": [[at, at + 7, "Drug"], [ache, ache + 8, "Problem"]],
                "relations": [["treats", "T1", "T2"]],
            }
        )
    changes: dict[str, Any] = {"type": "relation", "labels": {"treats": "the drug is given for the problem"}}
    report = check_task(write_task(tmp_path, {"train": rows}, **changes))
    (finding,) = [w for w in report.warnings if w.code == "uncovered"]
    assert finding.count == 12
    report = check_task(write_task(tmp_path, {"train": rows}, **changes, scope="document"))
    assert "uncovered" not in codes(report, "warning")


def test_unknown_catalog_name() -> None:
    assert codes(check_task("mpq"), "error") == ["task-file"]


@pytest.mark.data
def test_a_catalog_task_can_be_checked(data_dir: Path) -> None:
    report = check_task("mqp", data_dir)
    assert report.ok
    assert report.labels["test"] == {"similar": 325, "different": 325}
