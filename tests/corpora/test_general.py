"""The general benchmarks on small files in their exact schema: rows to records, splits, and files that are wrong."""

from __future__ import annotations

import builtins
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests import hub_samples
from tests.tasks.support import echo, length

from clinprompt import suites
from clinprompt.corpora import catalog, hub_corpus
from clinprompt.corpora.general.glue import rounded
from clinprompt.corpora.general.registry import CONVERTERS
from clinprompt.corpora.general.superglue import highlights, marked
from clinprompt.errors import CorpusError, DataMissingError
from clinprompt.tasks.definition import SPLITS
from clinprompt.tasks.registry import codec_for

pytest.importorskip("pyarrow", reason="parquet needs the extra `suites`")

IDS = catalog.catalog_ids("general")
SUITES = ("glue", "superglue", "mmlu", "commonsense")


@pytest.fixture
def any_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples have fewer rows than the data sets."""
    monkeypatch.setattr(hub_corpus, "check_rows", lambda part, folder, found: None)


# --- the entries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corpus_id", IDS)
def test_an_entry_is_complete(corpus_id: str) -> None:
    entry = catalog.catalog_entry(corpus_id)
    assert entry.hub is not None and entry.collection == "general"
    assert entry.id == entry.task.name == corpus_id
    assert entry.expected == entry.hub.published
    assert entry.hub.pinned_by
    assert all(entry.task.labels.values()), "every label has a description"
    assert ("set aside for validation" in " ".join(entry.note.split())) == entry.hub.carves
    assert entry.permissive == (entry.licence == "MIT")


def test_every_converter_is_used_and_every_task_is_in_a_suite() -> None:
    assert {catalog.catalog_entry(i).loader for i in IDS} == set(CONVERTERS)
    listed = [task for name in SUITES for task in suites.load_suite(name).sources]
    assert Counter(listed) == Counter(IDS)


# --- records ----------------------------------------------------------------------------------------------------------

# The second row of the test split (row 1: its classes are the second of two, three or four).
NLI: dict[str, tuple[str, str, str]] = {
    "glue-mrpc": ("First validation 1.", "Second validation 1.", "equivalent"),
    "glue-stsb": ("First validation 1.", "Second validation 1.", "0.8"),  # 0.7 is half way: to the even multiple
    "glue-qqp": ("Why validation 1?", "How validation 1?", "duplicate"),
    "glue-mnli": ("Premise validation_matched 1.", "Claim validation_matched 1.", "neutral"),
    "glue-qnli": ("Because validation 1.", "Why validation 1?", "not_entailment"),
    "glue-rte": ("First validation 1.", "Second validation 1.", "not_entailment"),
    "glue-wnli": ("First validation 1.", "Second validation 1.", "entailment"),
    "superglue-cb": ("Premise validation 1.", "Claim validation 1.", "contradiction"),
    "superglue-rte": ("Premise validation 1.", "Claim validation 1.", "not_entailment"),
    "superglue-multirc": ("Text multirc/validation 0.", "Who 0? Candidate 1", "correct"),
}
_THINGS = {split: tuple((k, f"Thing {split} 1 {c}") for k, c in zip("ABCD", "ABCD", strict=True)) for split in SPLITS}
QA: dict[str, tuple[str, str, tuple[tuple[str, str], ...], str]] = {
    "glue-cola": ("Sentence validation 1.", "Is this acceptable English?", (), "acceptable"),
    "glue-sst2": ("Sentence validation 1.", "What is the sentiment?", (), "positive"),
    "superglue-boolq": ("It is validation 1.", "is it validation 1", (), "yes"),
    "superglue-copa": (
        *("It rained validation 1.", "What happened as a result?"),
        *((("1", "The street is wet."), ("2", "The sun shone.")), "2"),
    ),
    "superglue-record": (
        *("Ada met Bo in validation 1. Bo was late. Ada left.", "@placeholder waited validation 1."),
        *((("1", "Ada"), ("2", "Bo")), "2"),
    ),
    "superglue-wic": (
        "The bank validation 1.\nA bank validation 1.",
        'Does "bank1" have the same meaning in both sentences?',
        (),
        "same",
    ),
    "superglue-wsc": ("Mark told Pete about *him* , validation 1.", 'Does *him* refer to "Mark"?', (), "yes"),
    "mmlu": ("", "What is test 1?", _THINGS["test"], "B"),
    "boolq": ("It is validation 1.", "is it validation 1", (), "yes"),
    "piqa": ("", "To do validation 1", (("1", "Use a spoon."), ("2", "Use a fork.")), "2"),
    "siqa": ("Ada met Bo validation 1.", "Why?", tuple((c, f"{c} validation 1") for c in "ABC"), "B"),
    "hellaswag": (
        *("Cooking: A man validation 1. he", "How does it go on?"),
        *(tuple((str(n), text) for n, (_, text) in enumerate(_THINGS["validation"], start=1)), "2"),
    ),
    "winogrande": (
        *("Ada thanked Bo because _ helped validation 1.", "What does the gap _ stand for?"),
        *((("1", "Ada1"), ("2", "Bo1")), "2"),
    ),
    "arc-easy": ("", "What is test 1?", tuple((str(n), t) for n, (_, t) in enumerate(_THINGS["test"], 1)), "2"),
    "arc-challenge": ("", "What is test 1?", tuple((str(n), t) for n, (_, t) in enumerate(_THINGS["test"], 1)), "2"),
    "openbookqa": ("", "Things test 1", _THINGS["test"], "B"),
}


@pytest.mark.parametrize("corpus_id", IDS)
@pytest.mark.usefixtures("any_count")
def test_rows_become_the_records_they_are(corpus_id: str, tmp_path: Path) -> None:
    entry = hub_samples.write(corpus_id, tmp_path)
    splits = catalog.load_corpus(corpus_id, tmp_path)
    record = splits["test"][1]
    if corpus_id in NLI:
        assert (record.text, record.hypothesis, record.label) == NLI[corpus_id]
    else:
        assert (record.text, record.question, record.options, record.answer) == QA[corpus_id]
    assert entry.hub is not None
    parts = Counter(part.split for part in entry.hub.parts)
    if entry.hub.carves:
        assert len(splits["train"]) + len(splits["validation"]) == 40 * parts["train"]
        groups = [{r.group for r in splits[s]} for s in ("train", "validation")]
        assert groups[1] and not groups[0] & groups[1]
    else:
        assert {s: len(splits[s]) for s in SPLITS} == {s: 40 * parts[s] for s in SPLITS}
    ids = [r.id for s in SPLITS for r in splits[s]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("corpus_id", IDS)
@pytest.mark.usefixtures("any_count")
def test_json_lines_and_shards_hold_the_same_records(corpus_id: str, tmp_path: Path) -> None:
    hub_samples.write(corpus_id, tmp_path / "whole", 12)
    hub_samples.write(corpus_id, tmp_path / "shards", 12, shards=3)
    hub_samples.write(corpus_id, tmp_path / "lines", 12, kind="jsonl")
    whole, shards, lines = (catalog.load_corpus(corpus_id, tmp_path / name) for name in ("whole", "shards", "lines"))
    assert whole == shards
    if corpus_id != "glue-stsb":  # parquet holds 32-bit numbers there
        assert whole == lines


@pytest.mark.parametrize("corpus_id", IDS)
@pytest.mark.usefixtures("any_count")
def test_a_perfect_model_is_understood(corpus_id: str, tmp_path: Path) -> None:
    entry = hub_samples.write(corpus_id, tmp_path, 8)
    codec = codec_for(entry.task, length, 400)
    for record in catalog.load_corpus(corpus_id, tmp_path)["test"]:
        examples, prediction = echo(entry.task, codec, record)
        assert (prediction.record.label, prediction.record.answer) == (record.label, record.answer)
        assert not prediction.malformed and not prediction.omitted and len(examples[0].choices) > 1


@pytest.mark.parametrize(
    ("score", "label"),
    [(0, "0.0"), (2.57, "2.6"), (2.5, "2.4"), (0.699999988079071, "0.8"), (3.799999952316284, "3.8")],
)
def test_similarity_is_rounded_to_a_fifth(score: float, label: str) -> None:
    assert rounded(score) == label


def test_every_similarity_is_a_label() -> None:
    labels = catalog.catalog_entry("glue-stsb").task.labels
    assert {rounded(i / 1000) for i in range(5001)} == set(labels) and len(labels) == 26


def test_the_pronoun_is_marked_where_the_index_says() -> None:
    assert marked("He saw him, and he left.", 4, "he") == "He saw him, and *he* left."
    assert marked("He saw him, and he left.", 2, "him") == "He saw *him*, and he left."
    assert marked("He saw him.", 1, "him") == "He saw him.", "an index that is wrong marks nothing"


def test_highlights_become_sentences() -> None:
    assert highlights("It ended.\n@highlight\nOne\n@highlight\nTwo") == "It ended. One. Two"


@pytest.mark.usefixtures("any_count")
def test_multirc_keeps_what_exact_match_counts(tmp_path: Path) -> None:
    hub_samples.write("superglue-multirc", tmp_path, 16)
    questions = [r.meta["question"] for r in catalog.load_corpus("superglue-multirc", tmp_path)["test"]]
    assert Counter(questions) == {"0:0": 4, "0:1": 4, "1:2": 4, "1:3": 4}


# --- files that are wrong ---------------------------------------------------------------------------------------------


def test_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    hub_samples.write("superglue-copa", tmp_path, 40)
    with pytest.raises(CorpusError, match=r"copa/train: 40 rows, .* gives 400"):
        catalog.load_corpus("superglue-copa", tmp_path)


def test_the_published_number_of_rows_is_accepted_and_verified(tmp_path: Path) -> None:
    """Whole sizes, for a data set that is small."""
    entry = hub_samples.write("superglue-cb", tmp_path, 250)
    part = entry.folder(tmp_path) / "cb" / "validation-00000-of-00001.parquet"
    hub_samples.write_parquet(part, entry.loader, list(hub_samples.rows(entry.loader, "cb/validation", 56)))
    (row,) = catalog.verify(["superglue-cb"], tmp_path)
    assert row["ok"] and not row["checksums"] and row["splits"]["test"] == 56
    assert row["splits"]["train"] + row["splits"]["validation"] == 250
    part.unlink()
    (row,) = catalog.verify(["superglue-cb"], tmp_path)
    assert not row["ok"] and "cb/validation" in row["problems"][0]


def test_a_missing_part_names_the_cures(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"data get glue-cola --accept-licence.*<folder>/glue/<path>"):
        catalog.load_corpus("glue-cola", tmp_path)


CHANGES: list[tuple[str, str, Any, str]] = [
    ("glue-cola", "label", -1, r"row 3: column 'label' is -1: the labels of this split are hidden"),
    ("glue-cola", "label", 2, "is no class number from 0 to 1"),
    ("glue-cola", "label", "x", "holds no whole number"),
    ("glue-cola", "sentence", None, "column 'sentence' holds no text"),
    ("glue-stsb", "label", 6.0, "holds no number from 0 to 5"),
    ("superglue-copa", "question", "why", "neither 'cause' nor 'effect'"),
    ("superglue-multirc", "idx", 3, "holds no structure with paragraph, question"),
    ("superglue-record", "answers", ["Cy"], "names no entity"),
    ("mmlu", "choices", "A", "holds no list of texts"),
    ("mmlu", "choices", ["A", "B"], "holds no four texts"),
    ("mmlu", "answer", 4, "no class number from 0 to 3"),
    ("boolq", "answer", 1, "neither true nor false"),
    ("siqa", "label", "0", "none of 1, 2 and 3"),
    ("hellaswag", "label", "", "holds no whole number"),  # how the hub marks its hidden test labels
    ("winogrande", "answer", "", "neither 1 nor 2"),
    ("arc-easy", "answerKey", "E", "no label of the choices"),
]


@pytest.mark.parametrize(("corpus_id", "column", "value", "message"), CHANGES)
def test_rows_that_are_refused(corpus_id: str, column: str, value: Any, message: str, tmp_path: Path) -> None:
    entry = hub_samples.write(corpus_id, tmp_path, 4, kind="jsonl")
    assert entry.hub is not None
    path = entry.folder(tmp_path) / f"{entry.hub.parts[0].path}.jsonl"
    content = list(hub_samples.rows(entry.loader, entry.hub.parts[0].path, 4))
    content[2][column] = value
    hub_samples.write_jsonl(path, entry.loader, content)
    with pytest.raises(CorpusError, match=message) as error:
        catalog.load_corpus(corpus_id, tmp_path)
    assert str(error.value).startswith(str(path))
    assert not any(word in str(error.value) for word in ("Sentence", "Thing", "Ada", "Candidate")), "no text is quoted"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1 not really", "not a readable parquet file"),
        (b"", "not a readable parquet file"),
    ],
)
def test_files_that_are_not_parquet(content: bytes, message: str, tmp_path: Path) -> None:
    entry = hub_samples.write("piqa", tmp_path, 4)
    (entry.folder(tmp_path) / "plain_text" / "train" / "0000.parquet").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        catalog.load_corpus("piqa", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "train.jsonl:2: not JSON"), ("[1]", ":2: not a JSON object"), ('{"a": 1}', ":2: there is no column 'goal'")],
)
def test_lines_that_are_not_rows(line: str, message: str, tmp_path: Path) -> None:
    entry = hub_samples.write("piqa", tmp_path, 4, kind="jsonl")
    path = entry.folder(tmp_path) / "plain_text" / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], line]), encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        catalog.load_corpus("piqa", tmp_path)


def test_columns_of_another_data_set(tmp_path: Path) -> None:
    entry = hub_samples.write("glue-cola", tmp_path, 4)
    path = entry.folder(tmp_path) / "cola" / "train-00000-of-00001.parquet"
    hub_samples.write_parquet(path, "glue_rte", list(hub_samples.rows("glue_rte", "x/y", 4)))
    with pytest.raises(CorpusError, match=r"there is no column 'sentence'\. Columns: 'sentence1'"):
        catalog.load_corpus("glue-cola", tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_samples.write("piqa", tmp_path, 4)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataMissingError, match=r"pip install 'clinprompt\[suites\]'"):
        catalog.load_corpus("piqa", tmp_path)
