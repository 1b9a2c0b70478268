"""The catalog against the published corpora: counts of the data README, licences, and structure that must hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from clinprompt.corpora import catalog
from clinprompt.corpora.public import pairs, qa
from clinprompt.corpora.public.registry import LOADERS
from clinprompt.errors import DataMissingError, TaskError
from clinprompt.records import Entity, Record
from clinprompt.tasks.definition import SPLITS

IDS = catalog.catalog_ids("clinical")
SOURCES = [i for i in IDS if catalog.catalog_entry(i).role == "source"]
TARGETS = [i for i in IDS if catalog.catalog_entry(i).role == "target"]


@cache
def corpus(corpus_id: str, data_dir: Path) -> dict[str, list[Record]]:
    """Loaded once per session: the records are immutable."""
    return catalog.load_corpus(corpus_id, data_dir)


def counts(corpus_id: str, data_dir: Path) -> dict[str, int]:
    return {split: len(records) for split, records in corpus(corpus_id, data_dir).items()}


# --- the entries themselves -------------------------------------------------------------------------------------------


def test_there_are_21_sources_and_10_targets_two_per_type() -> None:
    assert len(SOURCES) == 21
    assert Counter(catalog.catalog_entry(i).type for i in TARGETS) == dict.fromkeys(
        ("ner", "relation", "qa", "nli", "summarization"), 2
    )


@pytest.mark.parametrize("corpus_id", IDS)
def test_an_entry_is_complete(corpus_id: str) -> None:
    entry = catalog.catalog_entry(corpus_id)
    assert entry.id == entry.task.name == corpus_id
    assert entry.loader in LOADERS
    assert entry.files
    assert all(entry.task.labels.values()), "every label has a description"
    assert list(entry.expected) == list(SPLITS)
    assert all(count > 0 for count in entry.expected.values())
    assert len({file.path for file in entry.files}) == len(entry.files)
    assert not any(Path(file.path).is_absolute() or ".." in Path(file.path).parts for file in entry.files)


def test_every_loader_is_used() -> None:
    assert {catalog.catalog_entry(i).loader for i in IDS} == set(LOADERS)


def test_only_licences_without_conditions_beyond_credit_count_as_permissive() -> None:
    for corpus_id in IDS:
        entry = catalog.catalog_entry(corpus_id)
        licence = entry.licence
        restricted = any(word in licence for word in ("NC", "ND", "SA", "none stated", "not stated", "registration"))
        open_licence = any(word in licence for word in ("CC BY 4.0", "CC0", "MIT", "public domain"))
        assert entry.permissive == (open_licence and not restricted), corpus_id


def test_maccrobat_labels() -> None:
    assert len(catalog.catalog_entry("maccrobat-ner").task.labels) == 41
    assert len(catalog.catalog_entry("maccrobat-re").task.labels) == 7


def test_unknown_corpus_names_the_closest() -> None:
    with pytest.raises(TaskError, match="Did you mean 'maccrobat-ner'"):
        catalog.catalog_entry("macrobat-ner")


def test_missing_corpus_names_both_cures(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"clinprompt data get ddi2013 --accept-licence.*CLINPROMPT_DATA"):
        catalog.load_corpus("ddi2013", tmp_path)
    with pytest.raises(DataMissingError, match=r"maccrobat-ner.*<folder>/maccrobat-ner/<path>"):
        catalog.load_corpus("maccrobat-re", tmp_path)


def test_verify_reports_a_missing_corpus_as_a_row(tmp_path: Path) -> None:
    (row,) = catalog.verify(["mqp"], tmp_path)
    assert (row["id"], row["ok"], row["splits"]) == ("mqp", False, {})
    assert any("missing" in problem for problem in row["problems"])
    json.dumps(row)


def test_data_folder_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLINPROMPT_DATA", str(tmp_path / "variable"))
    assert catalog.resolve_data_dir(tmp_path / "option") == tmp_path / "option"
    assert catalog.resolve_data_dir() == tmp_path / "variable"
    monkeypatch.delenv("CLINPROMPT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert catalog.resolve_data_dir() == tmp_path / "cache" / "clinprompt" / "data"


# --- pieces of the readers --------------------------------------------------------------------------------------------


def test_chemprot_marks_are_taken_out_and_later_marks_are_text() -> None:
    text, spans = pairs.unmark("potency: << A >> (x) on [[ C-[[y]] ]] was D >> E >> F")
    assert text == "potency: A (x) on C-[[y]] was D >> E >> F"
    assert text[slice(*spans["head"])] == "A"
    assert text[slice(*spans["tail"])] == "C-[[y]]"


def test_overlap_rule() -> None:
    words = list("abcdefghijkl")
    question = Record("q", "", question=" ".join(words))  # five 8-grams
    two = Record("two", "", question=" ".join(words[:9]))  # shares two of five
    one = Record("one", "", question=" ".join(words[:8]) + " z")  # shares one of five
    assert qa.overlapping([question], [two]) == {"q"}
    assert qa.overlapping([question], [one]) == set()
    assert qa.overlapping([Record("short", "", question="a b")], [question]) == set()


# --- against the corpora ----------------------------------------------------------------------------------------------

# What the README of the data states, in its words: (train, validation, test), or the total where there is no split.
README_SPLITS = {
    "mediqa-rqe": (8588, 302, 230),
    "biored": (400, 100, 100),
    "phee": (2898, 961, 968),
    "nli4ct": (1700, 200, 500),
    "mts-dialog": (1201, 100, 400),
    "headqa": (2657 - 68, 1366 - 30, 2742 - 67),
}
README_TOTALS = {
    "medqa": 1273,
    "medmcqa": 2816,
    "bioasq-yesno": 618,
    "mqp": 3048,
    "meqsum": 1000,
    "maccrobat-ner": 200,
    "maccrobat-re": 200,
    "medbullets": 308 - 11,
    "open-i": 3331,
    "pubmedqa": 1000,
}
README_TESTS = {"e3c": 851, "scinli": 4000, "pubmedqa": 500}
README_TRAINING = {"e3c": 669, "scinli": 2000}  # before validation was carved from it


@pytest.mark.data
@pytest.mark.parametrize("corpus_id", IDS)
def test_counts_are_the_frozen_ones(corpus_id: str, data_dir: Path) -> None:
    assert counts(corpus_id, data_dir) == catalog.catalog_entry(corpus_id).expected


@pytest.mark.data
def test_counts_are_those_of_the_readme(data_dir: Path) -> None:
    for corpus_id, split_counts in README_SPLITS.items():
        assert tuple(counts(corpus_id, data_dir).values()) == split_counts, corpus_id
    for corpus_id, total in README_TOTALS.items():
        assert sum(counts(corpus_id, data_dir).values()) == total, corpus_id
    for corpus_id, total in README_TESTS.items():
        assert counts(corpus_id, data_dir)["test"] == total, corpus_id
    for corpus_id, total in README_TRAINING.items():
        found = counts(corpus_id, data_dir)
        assert found["train"] + found["validation"] == total, corpus_id


@pytest.mark.data
def test_structure_counts_are_those_of_the_readme(data_dir: Path) -> None:
    reports = [record for split in corpus("maccrobat-ner", data_dir).values() for record in split]
    entities = [entity for record in reports for entity in record.entities]
    assert len(entities) == 25_189
    assert sum(len(entity.spans) > 1 for entity in entities) == 44
    assert {entity.type for entity in entities} == set(catalog.catalog_entry("maccrobat-ner").task.labels)
    related = [record for split in corpus("maccrobat-re", data_dir).values() for record in split]
    assert sum(len(record.relations) for record in related) == 16_307
    cid = corpus("cdr-cid", data_dir)
    assert [sum(len(r.relations) for r in cid[split]) for split in SPLITS] == [1038, 1012, 1066]
    ddi = corpus("ddi2013", data_dir)
    candidate_pairs = {split: sum(len(r.meta["pairs"]) for r in ddi[split]) for split in SPLITS}
    assert candidate_pairs["train"] + candidate_pairs["validation"] == 27_792
    assert candidate_pairs["test"] == 5716
    cochrane = [record for split in corpus("cochrane", data_dir).values() for record in split]
    assert sum(len(record.text) for record in cochrane) // len(cochrane) == 2276
    assert sum(len(record.summary or "") for record in cochrane) // len(cochrane) == 1353


@pytest.mark.data
def test_manifest_and_catalog_agree(data_dir: Path) -> None:
    path = data_dir / "manifest.json"
    if not path.is_file():
        pytest.skip("no manifest.json in the data folder")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert set(manifest) == set(IDS)
    for corpus_id, listed in manifest.items():
        entry = catalog.catalog_entry(corpus_id)
        assert (entry.type, entry.role, entry.licence) == (listed["type"], listed["role"], listed["licence"])
        pinned = {(f["path"], f["repository"], f["revision"], f["upstream"], f["sha256"]) for f in listed["files"]}
        own = {(f.path, s.repository, s.revision, f.upstream, f.sha256) for s in entry.sources for f in s.files}
        assert own <= pinned


@pytest.mark.data
@pytest.mark.parametrize("corpus_id", IDS)
def test_records_have_what_their_task_needs(corpus_id: str, data_dir: Path) -> None:
    task = catalog.catalog_entry(corpus_id).task
    records = [record for split in corpus(corpus_id, data_dir).values() for record in split]
    assert len({record.id for record in records}) == len(records)
    for record in records:
        if task.type != "qa":
            assert record.text.strip()
        if task.type == "ner":
            assert {entity.type for entity in record.entities} <= set(task.labels)
        elif task.type == "relation":
            assert {relation.type for relation in record.relations} <= set(task.labels)
            assert len({entity.id for entity in record.entities}) == len(record.entities)
        elif task.type == "nli":
            assert record.label in task.labels
            assert record.hypothesis is not None
        elif task.type == "qa":
            assert record.question
            assert record.answer in (task.labels or dict(record.options))
        else:
            assert record.summary


@pytest.mark.data
@pytest.mark.parametrize("corpus_id", ["chemprot", "gad", "ddi2013", "cdr-cid", "biored"])
def test_gold_relations_are_among_the_candidate_pairs(corpus_id: str, data_dir: Path) -> None:
    unreachable = 0
    for records in corpus(corpus_id, data_dir).values():
        for record in records:
            known = {e.id for e in record.entities} | {c for e in record.entities for c in e.concepts}
            candidates = record.meta["pairs"]
            assert len(set(candidates)) == len(candidates)
            assert all(head in known and tail in known for head, tail in candidates)
            unreachable += sum((r.head, r.tail) not in candidates for r in record.relations)
    # BioRED relates four concepts to themselves (orthologs under one id) and one that is mentioned nowhere.
    assert unreachable == (5 if corpus_id == "biored" else 0)


@pytest.mark.data
def test_ddi_offsets_select_the_published_names(data_dir: Path) -> None:
    """Offsets in the corpus include the last character; the mention published one character early is moved."""
    sentence = next(r for r in corpus("ddi2013", data_dir)["train"] if r.id == "DDI-DrugBank.d216.s16")
    assert sentence.entity("e2").text_in(sentence.text) == "(R)- warfarin"
    for records in corpus("ddi2013", data_dir).values():
        for record in records:
            for entity in record.entities:
                assert entity.text_in(record.text) == entity.text_in(record.text).strip()


@pytest.mark.data
def test_phee_heads_are_drugs_or_treatments(data_dir: Path) -> None:
    allowed = set(catalog.catalog_entry("phee").task.arguments)
    for records in corpus("phee", data_dir).values():
        for record in records:
            for relation in record.relations:
                assert (record.entity(relation.head).type, record.entity(relation.tail).type) in allowed


@pytest.mark.data
def test_medbullets_items_that_overlap_medqa_are_recomputed(data_dir: Path) -> None:
    medqa = [record for split in corpus("medqa", data_dir).values() for record in split]
    assert qa.overlapping(qa.medbullets_items(data_dir / "medbullets"), medqa) == qa.OVERLAPPING_MEDQA


RESPLIT = ("medqa", "medmcqa", "bioasq-yesno", "mqp", "meqsum", "maccrobat-ner", "medbullets", "open-i")
CARVED = ("gad", "ddi2013", "pubmedqa", "healthver", "cochrane", "e3c", "scinli")


@pytest.mark.data
def test_groups_stay_together_where_the_split_is_ours(data_dir: Path) -> None:
    for corpus_id in RESPLIT + CARVED:
        splits = corpus(corpus_id, data_dir)
        groups = {split: {record.group for record in records} for split, records in splits.items()}
        assert "" not in groups["train"] | groups["validation"], corpus_id
        assert not groups["train"] & groups["validation"], corpus_id
        if corpus_id in RESPLIT:
            assert not (groups["train"] | groups["validation"]) & groups["test"], corpus_id
            assert 0.15 < len(splits["test"]) / sum(map(len, splits.values())) < 0.25, corpus_id


@pytest.mark.data
def test_both_maccrobat_tasks_share_one_split(data_dir: Path) -> None:
    for split in SPLITS:
        ner, relation = (corpus(i, data_dir)[split] for i in ("maccrobat-ner", "maccrobat-re"))
        assert [record.id for record in ner] == [record.id for record in relation]


def _sentences(text: str | None) -> tuple[str, ...]:
    """Sentences of some length, letters and digits only: what a leak repeats whatever the tokenisation."""
    parts = (re.sub(r"\W+", "", part.casefold()) for part in re.split(r"(?<=[.?!])\s+|\n", text or ""))
    return tuple(part for part in parts if len(part) >= 40)


def _fields(record: Record) -> list[tuple[str, ...]]:
    texts = (record.text, record.question, record.hypothesis, record.summary)
    return [sentences for text in texts if (sentences := _sentences(text))]


@pytest.mark.data
def test_no_target_test_text_is_in_a_source_training_split(data_dir: Path) -> None:
    """A text has leaked if all its sentences stand on the other side; the records withheld are those and no others."""
    tests = [(i, field) for i in TARGETS for record in corpus(i, data_dir)["test"] for field in _fields(record)]
    sentences_of_tests = {sentence for _, field in tests for sentence in field}
    leaked: dict[str, set[str]] = {}
    common: set[str] = set()
    for corpus_id in SOURCES:
        for split in ("train", "validation"):
            for record in corpus(corpus_id, data_dir)[split]:
                for field in _fields(record):
                    common.update(sentences_of_tests.intersection(field))
                    if sentences_of_tests.issuperset(field):
                        leaked.setdefault(corpus_id, set()).add(record.id)
    wholly_known = {sentence for _, field in tests if common.issuperset(field) for sentence in field}
    for corpus_id in SOURCES:
        for split in ("train", "validation"):
            for record in corpus(corpus_id, data_dir)[split]:
                if any(not wholly_known.isdisjoint(field) for field in _fields(record)):
                    leaked.setdefault(corpus_id, set()).add(record.id)
    withheld = {i: set(entry.withheld) for i in IDS if (entry := catalog.catalog_entry(i)).withheld}
    assert leaked == withheld


def test_entities_of_the_catalog_are_frozen() -> None:
    """The session-wide cache above is only sound because records cannot change."""
    with pytest.raises(AttributeError):
        Entity("T1", "x", ((0, 1),)).type = "y"  # type: ignore[misc]
