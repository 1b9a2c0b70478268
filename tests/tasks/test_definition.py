"""Task YAMLs as people write them: what is read, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinprompt.errors import TaskError
from clinprompt.tasks.definition import load_task

HEAD = "name: t\ntype: nli\n"
TRUTH = "YAML reads an unquoted yes, no, on or off as true or false"


def written(folder: Path, text: str) -> Path:
    path = folder / "t.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("labels: [yes, no, maybe]", f'`labels`: {TRUTH}; quote it: "yes".'),
        ("labels: {no: x, maybe: y}", f'`labels`: {TRUTH}; quote it: "no".'),
        ("labels: [1, 2]", '`labels`: YAML reads an unquoted 1 as a number; quote it: "1".'),
        ("labels: {a: 3}", '`labels.a`: YAML reads an unquoted 3 as a number; quote it: "3".'),
        ("labels: {a: [x]}", "`labels.a`: a text is needed here, not a list."),
        ("labels: [{a: x}]", "`labels`: a list holds names only; with descriptions write a mapping"),
        ("labels: [a]\ncolumns: {label: 1}", '`columns.label`: YAML reads an unquoted 1 as a number; quote it: "1".'),
        (
            "labels: [a]\nreader: {label_names: {1: a}}",
            '`reader`: `label_names`: YAML reads an unquoted 1 as a number; quote it: "1".',
        ),
        (
            'labels: ["yes"]\nreader: {label_names: {"1": yes}}',
            f'`reader`: `label_names.1`: {TRUTH}; quote it: "yes".',
        ),
        (
            "labels: [a]\nlicence: 2020-01-01",
            '`licence`: YAML reads an unquoted 2020-01-01 as a date; quote it: "2020-01-01".',
        ),
    ],
)
def test_what_yaml_makes_of_unquoted_words(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, f"{HEAD}{text}\n")
    with pytest.raises(TaskError) as refused:
        load_task(path)
    assert problem in str(refused.value) and str(refused.value).startswith(f"{path}: ")


def test_a_label_without_a_description(tmp_path: Path) -> None:
    task = load_task(written(tmp_path, "name: t\ntype: ner\nlabels:\n  Drug:\n  Problem: a disease\n"))
    assert task.labels == {"Drug": "", "Problem": "a disease"}


def test_a_yaml_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"name: t\ntype: n\xe9r\n")
    with pytest.raises(TaskError, match=f"{path}:2: not UTF-8"):
        load_task(path)
