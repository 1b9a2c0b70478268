"""Scores against independent formulations and constructed cases."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator

from clinprompt.errors import TaskError
from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import ErrorCounts, error_analysis, headline, score

NER = TaskDefinition(name="ner", type="ner", labels={"A": "", "B": ""})
REL = TaskDefinition(name="rel", type="relation", labels={"treats": "", "causes": ""})
NLI = TaskDefinition(name="nli", type="nli", labels={"x": "", "y": "", "z": ""})
TEXT = "t" * 100

Mention = tuple[str, int, int]


def document(name: int, mentions: Sequence[Mention]) -> Record:
    entities = tuple(Entity(f"T{i}", kind, ((start, end),)) for i, (kind, start, end) in enumerate(mentions))
    return Record(str(name), TEXT, entities)


# Mentions that do not overlap each other: there nervaluate's strict strategy has no choice to make.
flat = st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 1), st.integers(5, 8)), max_size=5).map(
    lambda items: [(kind, 10 * i + start, 10 * i + end) for i, (kind, start, end) in enumerate(items)]
)


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(flat, flat), min_size=1, max_size=4))
def test_spans_agree_with_nervaluate(pairs: list[tuple[list[Mention], list[Mention]]]) -> None:
    gold = [document(i, a) for i, (a, _) in enumerate(pairs)]
    predictions = [Prediction(document(i, b)) for i, (_, b) in enumerate(pairs)]
    found = score(NER, gold, predictions, resamples=0)
    as_dicts = [
        [[{"label": k, "start": s, "end": e - 1} for k, s, e in side] for side in sides]
        for sides in zip(*pairs, strict=True)
    ]
    reference = Evaluator(as_dicts[0], as_dicts[1], tags=["A", "B"], loader="dict").evaluate()
    for ours, theirs in (("strict", "strict"), ("relaxed", "ent_type")):
        result = reference["overall"][theirs]
        for part in ("precision", "recall", "f1"):
            assert math.isclose(found[f"{ours}_{part}"].value, 100 * getattr(result, part), abs_tol=1e-9)
        for kind, by_strategy in reference["entities"].items():
            assert math.isclose(found[f"{ours}_f1/{kind}"].value, 100 * by_strategy[theirs].f1, abs_tol=1e-9)


def test_an_exact_hit_counts_beside_an_overlapping_error() -> None:
    gold, predicted = [document(0, [("A", 0, 5)])], [Prediction(document(0, [("A", 0, 3), ("A", 0, 5)]))]
    found = score(NER, gold, predicted, resamples=0)
    assert found["strict_recall"].value == 100 and found["strict_precision"].value == 50


def test_discontinuous_entities_match_only_on_all_spans() -> None:
    gold = [Record("0", TEXT, (Entity("T1", "A", ((0, 4), (8, 12))),))]
    hull = [Prediction(document(0, [("A", 0, 12)]))]
    found = score(NER, gold, hull, resamples=0)
    assert found["strict_f1"].value == 0 and found["relaxed_f1"].value == 100
    assert score(NER, gold, [Prediction(gold[0])], resamples=0)["strict_f1"].value == 100


def test_ungrounded_mentions_are_false_positives() -> None:
    gold = [document(0, [("A", 0, 5)])]
    found = score(NER, gold, [Prediction(gold[0], ungrounded=(("A", "x"), ("B", "y"), ("B", "y")))], resamples=0)
    assert found["strict_precision"].value == found["relaxed_precision"].value == 25
    assert found["strict_f1/A"].value == pytest.approx(200 / 3) and found["strict_f1/B"].value == 0
    assert found["ungrounded"].value == 75


def test_relations_compare_spans_not_names() -> None:
    entities = (Entity("T1", "D", ((0, 5),)), Entity("T2", "E", ((6, 9),)))
    renamed = (Entity("E9", "D", ((0, 5),)), Entity("E8", "E", ((6, 9),)))
    gold = [Record("0", TEXT, entities, (Relation("treats", "T1", "T2"), Relation("causes", "T2", "T1")))]
    predicted = Record("0", TEXT, renamed, (Relation("treats", "E9", "E8"), Relation("causes", "E9", "E8")))
    found = score(REL, gold, [Prediction(predicted, ungrounded=(("treats", "x"),))], resamples=0)
    assert found["strict_f1"].value == pytest.approx(100 * 2 / 5)
    assert found["strict_f1/treats"].value == pytest.approx(100 * 2 / 3) and found["strict_f1/causes"].value == 0
    either = REL.model_copy(update={"directed": False})
    assert score(either, gold, [Prediction(predicted)], resamples=0)["strict_f1"].value == 100
    concepts = [Record("0", "", (), (Relation("treats", "D1", "D2"),))]
    assert score(REL, concepts, [Prediction(concepts[0])], resamples=0)["strict_f1"].value == 100


def test_predicted_mentions_stand_for_gold_concepts() -> None:
    task = REL.model_copy(update={"entities": "predicted", "scope": "document"})
    mentions = (Entity("T1", "D", ((0, 5),), ("C1", "C2")), Entity("T2", "E", ((6, 9),), ("C3",)))
    gold = [Record("0", TEXT, mentions, (Relation("treats", "C2", "C3"),))]
    found = (Entity("E1", "D", ((0, 5),)), Entity("E2", "E", ((6, 9),)), Entity("E3", "E", ((20, 29),)))
    relations = (Relation("treats", "E1", "E2"), Relation("treats", "E1", "E3"), Relation("treats", "E2", "E1"))
    predicted = [Prediction(Record("0", TEXT, found, relations))]
    assert score(task, gold, predicted, resamples=0)["strict_precision"].value == pytest.approx(100 / 3)
    either = task.model_copy(update={"directed": False})
    assert score(either, gold, predicted, resamples=0)["strict_f1"].value == pytest.approx(100 * 2 / 3)


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz")), min_size=1, max_size=30))
def test_accuracy_and_macro_f1(pairs: list[tuple[str, str]]) -> None:
    gold = [Record(str(i), "", label=a) for i, (a, _) in enumerate(pairs)]
    found = score(NLI, gold, [Prediction(Record(str(i), "", label=b)) for i, (_, b) in enumerate(pairs)], resamples=0)
    per_class = []
    for name in {label for pair in pairs for label in pair}:
        hits = sum(a == b == name for a, b in pairs)
        precision = hits / max(1, sum(b == name for _, b in pairs))
        recall = hits / max(1, sum(a == name for a, _ in pairs))
        per_class.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert found["accuracy"].value == pytest.approx(100 * np.mean([a == b for a, b in pairs]))
    assert found["macro_f1"].value == pytest.approx(100 * np.mean(per_class))


def test_no_answer_is_an_error() -> None:
    gold = [Record("0", "", label="x"), Record("1", "", label="x")]
    found = score(NLI, gold, [Prediction(Record("0", "")), Prediction(gold[1])], resamples=0)
    assert found["accuracy"].value == 50 and found["macro_f1"].value == pytest.approx(200 / 3)


def test_rouge_and_free_answers() -> None:
    task = TaskDefinition(name="s", type="summarization")
    gold = [Record("0", "", summary="the cat sat on the mat")]
    found = score(task, gold, [Prediction(Record("0", "", summary="the cat lay on a mat"))], resamples=0)
    assert found["rouge1"].value == pytest.approx(100 * 4 / 6)  # the, cat, on, mat
    assert found["rouge2"].value == pytest.approx(100 * 1 / 5)  # the cat
    assert found["rougeL"].value == pytest.approx(100 * 4 / 6)
    free = TaskDefinition(name="f", type="qa", answers="free")
    gold = [Record("0", "", answer="The left lung"), Record("1", "", answer="gout")]
    said = [Prediction(Record("0", "", answer="left upper lung.")), Prediction(Record("1", "", answer="Gout!"))]
    found = score(free, gold, said, resamples=0)
    assert found["exact_match"].value == 50 and found["token_f1"].value == pytest.approx(100 * (4 / 5 + 1) / 2)


def test_intervals_are_the_bootstrap_of_records() -> None:
    rng = np.random.default_rng(1)
    outcome = rng.random(400) < 0.7
    gold = [Record(str(i), "", label="x") for i in range(400)]
    said = [Prediction(Record(str(i), "", label="x" if hit else "y")) for i, hit in enumerate(outcome)]
    found = score(NLI, gold, said, resamples=4000, seed=3)["accuracy"]
    error = 100 * 1.96 * math.sqrt(outcome.mean() * (1 - outcome.mean()) / 400)
    assert found.value == pytest.approx(100 * outcome.mean())
    assert found.low == pytest.approx(found.value - error, abs=0.6)
    assert found.high == pytest.approx(found.value + error, abs=0.6)
    assert score(NLI, gold, said, seed=5) == score(NLI, gold, said, seed=5) != score(NLI, gold, said, seed=6)
    plain = [rng.choice(outcome, 400).mean() * 100 for _ in range(4000)]
    assert found.low == pytest.approx(np.percentile(plain, 2.5), abs=0.6)


def test_headlines_and_unknown_metrics() -> None:
    assert [headline(task) for task in (NER, REL, NLI)] == ["strict_f1", "strict_f1", "accuracy"]
    assert headline(TaskDefinition(name="q", type="qa")) == "accuracy"
    assert headline(TaskDefinition(name="s", type="summarization")) == "rougeL"
    assert headline(NLI.model_copy(update={"metrics": ("macro_f1",)})) == "macro_f1"
    gold = [Record("0", "", label="x")]
    assert (
        next(iter(score(NLI.model_copy(update={"metrics": ("macro_f1",)}), gold, [Prediction(gold[0])]))) == "macro_f1"
    )
    with pytest.raises(TaskError, match="Did you mean 'macro_f1'"):
        headline(NLI.model_copy(update={"metrics": ("macrof1",)}))


def test_what_cannot_be_scored_is_refused() -> None:
    gold = [Record("0", "", label="x")]
    with pytest.raises(TaskError, match="no records"):
        score(NLI, [], [])
    with pytest.raises(TaskError, match="1 gold records but 0"):
        score(NLI, gold, [])
    with pytest.raises(TaskError, match="same order"):
        score(NLI, gold, [Prediction(Record("1", ""))])
    with pytest.raises(TaskError, match="record 0 has no gold label"):
        score(NLI, [Record("0", "")], [Prediction(gold[0])])


def test_bertscore_asks_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    task = TaskDefinition(name="s", type="summarization", metrics=("rougeL", "bertscore"))
    gold = [Record("0", "", summary="a")]
    with pytest.raises(TaskError, match=r"clinprompt\[bertscore\]"):
        score(task, gold, [Prediction(gold[0])])


def test_bertscore_is_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(predicted: list[str], gold: list[str], *, lang: str, verbose: bool) -> tuple[None, None, list[float]]:
        assert (lang, verbose) == ("en", False)
        return None, None, [float(a == b) for a, b in zip(predicted, gold, strict=True)]

    monkeypatch.setitem(sys.modules, "bert_score", SimpleNamespace(score=fake))
    task = TaskDefinition(name="s", type="summarization", metrics=("bertscore",))
    gold = [Record("0", "", summary="a"), Record("1", "", summary="b")]
    found = score(task, gold, [Prediction(gold[0]), Prediction(Record("1", "", summary="c"))])
    assert next(iter(found)) == "bertscore" and found["bertscore"].value == 50
    assert "bertscore" not in score(task.model_copy(update={"metrics": ()}), gold, [Prediction(r) for r in gold])


def test_error_analysis() -> None:
    gold = [document(0, [("A", 0, 5), ("A", 10, 15), ("B", 20, 25), ("A", 30, 35), ("A", 50, 55)])]
    said = document(0, [("A", 0, 5), ("A", 10, 14), ("A", 20, 25), ("B", 30, 34), ("A", 60, 65)])
    counts = error_analysis(gold, [Prediction(said, ungrounded=(("A", "zz"),))])
    assert counts == ErrorCounts(correct=1, boundary=1, type=1, missed=2, spurious=2, ungrounded=1)
