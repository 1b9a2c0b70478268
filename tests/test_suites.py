"""Suites and task data: the shipped ones, a user's own, and every way to misspell them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clinprompt import suites
from clinprompt.corpora.catalog import catalog_entry, catalog_ids
from clinprompt.errors import CorpusError, DataMissingError, TaskError
from clinprompt.tasks.definition import SPLITS


def own_task(folder: Path, splits: dict[str, int], **changes: Any) -> Path:
    """A task YAML with JSON Lines of `n` records per split beside it."""
    for split, n in splits.items():
        rows = [
            {"text": f"Premise {split} {i}.", "hypothesis": f"Claim {i}.", "label": "yes" if i % 2 else "no"}
            for i in range(n)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw: dict[str, Any] = {
        "name": "own-task",
        "type": "nli",
        "labels": {"yes": "the claim follows", "no": "the claim does not follow"},
        "format": "jsonl",
        "files": {split: f"{split}.jsonl" for split in splits},
        "licence": "ours",
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(raw | changes), encoding="utf-8")
    return path


def suite_file(folder: Path, **raw: Any) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"name": "mine"} | raw), encoding="utf-8")
    return path


# --- suites -----------------------------------------------------------------------------------------------------------


def test_open_clinical_is_the_whole_catalog_in_its_roles() -> None:
    suite = suites.load_suite("open-clinical")
    assert (len(suite.sources), len(suite.targets)) == (21, 10)
    assert set(suite.sources) | set(suite.targets) == set(catalog_ids("clinical"))
    assert all(catalog_entry(name).role == role for name, role in suite.tasks)


def test_the_permissive_suite_has_exactly_the_permissive_sources() -> None:
    whole, permissive = (suites.load_suite(f"open-clinical{end}") for end in ("", "-permissive"))
    assert permissive.sources == tuple(name for name in whole.sources if catalog_entry(name).permissive)
    assert permissive.targets == whole.targets


def test_a_users_suite_mixes_catalog_ids_and_task_files(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    task = own_task(tmp_path / "mine", {"train": 20, "test": 4})
    suite = suites.load_suite(suite_file(tmp_path, sources=["mqp"], targets=["mine/task.yaml"]))
    assert suite.tasks == (("mqp", "source"), (str(task), "target"))
    (data,) = suites.suite_data(suite, roles=["target"])
    assert (data.task.name, data.role, data.licence) == ("own-task", "target", "ours")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sources": ["mqp"], "target": ["e3c"]}, "unknown key `target`"),
        ({"sources": ["mpq"]}, "Did you mean 'mqp'"),
        ({"sources": ["mqp"], "targets": ["mqp"]}, "listed more than once: mqp"),
        ({"sources": ["none.yaml"]}, "does not exist"),
        ({}, "no tasks"),
        ({"sources": "mqp"}, "sources"),
    ],
)
def test_suite_files_that_are_refused(tmp_path: Path, raw: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        suites.load_suite(suite_file(tmp_path, **raw))


def test_suite_names_and_paths_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Did you mean 'open-clinical'"):
        suites.load_suite("open-clincal")
    with pytest.raises(TaskError, match="no such file"):
        suites.load_suite(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nsources: [a\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"broken\.yaml:\d+: not valid YAML"):
        suites.load_suite(broken)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        own_task(tmp_path / name, {"train": 10})
    suite = suites.load_suite(suite_file(tmp_path, sources=["a/task.yaml", "b/task.yaml"]))
    with pytest.raises(TaskError, match="both named 'own-task'"):
        list(suites.suite_data(suite))


# --- task data --------------------------------------------------------------------------------------------------------


def test_own_task_without_validation_has_one_carved_from_training(tmp_path: Path) -> None:
    path = own_task(tmp_path, {"train": 200, "test": 10})
    data = suites.load_task_data(path)
    assert list(data.splits) == list(SPLITS)
    assert data.counts["train"] + data.counts["validation"] == 200
    assert 10 < data.counts["validation"] < 45
    assert suites.load_task_data(path).splits == data.splits, "the same ones every time"
    assert suites.load_task_data(path, splits=["validation"]).splits["validation"] == data.splits["validation"]


def test_own_task_with_all_splits_is_read_as_it_is(tmp_path: Path) -> None:
    data = suites.load_task_data(own_task(tmp_path, {"train": 20, "validation": 5, "test": 10}))
    assert data.counts == {"train": 20, "validation": 5, "test": 10}
    assert data.splits["test"][1].label == "yes"


def test_only_the_splits_asked_for_are_read(tmp_path: Path) -> None:
    path = own_task(tmp_path, {"train": 20, "validation": 5, "test": 10})
    (tmp_path / "train.jsonl").unlink()
    assert suites.load_task_data(path, splits=["test"]).counts == {"train": 0, "validation": 0, "test": 10}
    with pytest.raises(CorpusError, match="no such file"):
        suites.load_task_data(path)
    with pytest.raises(TaskError, match="Did you mean 'test'"):
        suites.load_task_data(path, splits=["tests"])


def test_a_limit_takes_the_same_records_every_time_and_grows(tmp_path: Path) -> None:
    path = own_task(tmp_path, {"train": 10, "validation": 5, "test": 300})
    few, more = (suites.load_task_data(path, limit=n).splits["test"] for n in (20, 40))
    assert (len(few), len(more)) == (20, 40)
    assert [r for r in more if r in few] == few, "a larger sample contains the smaller one, in file order"
    assert [r.id for r in few] != [f"test:{i}" for i in range(1, 21)]


@pytest.mark.parametrize(("missing", "message"), [("files", "no `files`"), ("format", "no `format`")])
def test_task_files_that_lack_what_reading_needs(tmp_path: Path, missing: str, message: str) -> None:
    path = own_task(tmp_path, {"train": 10})
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    del raw[missing]
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        suites.load_task_data(path)


def test_unknown_task_names_the_closest() -> None:
    with pytest.raises(TaskError, match=r"Did you mean 'headqa'.*path of a task YAML"):
        suites.load_task_data("heada")


def test_catalog_task_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="clinprompt data get headqa"):
        suites.load_task_data("headqa", tmp_path)


# --- with the corpora -------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_catalog_task_data(data_dir: Path) -> None:
    data = suites.load_task_data("mqp", data_dir)
    assert (data.task.type, data.role, data.licence) == ("nli", "source", "none stated")
    assert data.counts == catalog_entry("mqp").expected
    assert suites.load_task_data("mqp", data_dir, role="target").role == "target"


@pytest.mark.data
def test_withheld_records_are_not_in_training(data_dir: Path) -> None:
    entry = catalog_entry("cdr-cid")
    data = suites.load_task_data("cdr-cid", data_dir)
    assert data.counts["train"] == entry.expected["train"] - len(entry.withheld)
    assert not {record.id for record in data.splits["train"]} & set(entry.withheld)


@pytest.mark.data
def test_show_is_json_ready(data_dir: Path) -> None:
    shown = suites.show("maccrobat-re", "test", 2, data_dir)
    assert len(json.loads(json.dumps(shown))) == 2
    assert shown[0]["relations"]


# --- what stands in the repository ------------------------------------------------------------------------------------

REPOSITORY = Path(__file__).resolve().parents[1]


def test_suites_in_configs_load() -> None:
    paths = sorted((REPOSITORY / "configs" / "suites").glob("*.yaml"))
    assert paths
    for path in paths:
        assert suites.load_suite(path).sources


def test_the_documented_table_is_the_catalogs() -> None:
    text = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    for corpus_id in catalog_ids("clinical"):
        entry = catalog_entry(corpus_id)
        counts = " | ".join(f"{entry.expected[split]:,}" for split in SPLITS)
        permissive = "yes" if entry.permissive else "no"
        row = f"| `{entry.id}` | {entry.type} | {entry.role} | {entry.licence} | {permissive} | {counts} |"
        assert row in text, corpus_id
