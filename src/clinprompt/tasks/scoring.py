"""What is counted for each record, by task type. Every metric is a function of column sums, so that a bootstrap over
records is one matrix product (see `clinprompt.tasks.metrics`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from nervaluate.entities import Entity as FlatEntity
from nervaluate.strategies import EntityTypeEvaluation
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer

from clinprompt.errors import TaskError
from clinprompt.records import Record, Span
from clinprompt.tasks.codec import Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.pairs import is_concept_level
from clinprompt.tasks.qa import gold_answer
from clinprompt.tasks.surface import NONE

Array = NDArray[np.float64]
Metric = Callable[[Mapping[str, Array]], Array]
"""Sums of the columns (one value per resample) → the metric, in 0..1 (nan where it is undefined)."""


@dataclass(slots=True)
class Sheet:
    """Columns hold one number per record, metrics read the columns' sums."""

    size: int
    columns: dict[str, Array] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def column(self, name: str) -> Array:
        """The column of this name, made of zeros when it is new."""
        return self.columns.setdefault(name, np.zeros(self.size))

    def add_f1(self, prefix: str, suffix: str = "", parts: Sequence[str] = ("precision", "recall", "f1")) -> None:
        """Precision, recall and F1 of the columns `hit`, `predicted` and `gold` of this prefix and suffix; 0/0 is 0."""
        names = [f"{prefix}:{part}{suffix}" for part in ("hit", "predicted", "gold")]
        for name in names:
            self.column(name)
        if "precision" in parts:
            self.metrics[f"{prefix}_precision{suffix}"] = lambda s: divide(s[names[0]], s[names[1]])
        if "recall" in parts:
            self.metrics[f"{prefix}_recall{suffix}"] = lambda s: divide(s[names[0]], s[names[2]])
        if "f1" in parts:
            self.metrics[f"{prefix}_f1{suffix}"] = lambda s: divide(2 * s[names[0]], s[names[1]] + s[names[2]])

    def add_mean(self, name: str, values: Sequence[float]) -> None:
        """The mean of a number per record."""
        self.columns[name] = np.asarray(values, dtype=np.float64)
        self.column("records")[:] = 1
        self.metrics[name] = lambda s: divide(s[name], s["records"])


def divide(numerator: Array, denominator: Array, empty: float = 0.0) -> Array:
    """Element-wise quotient with `empty` where the denominator is 0."""
    quotient: Array = np.divide(
        numerator, denominator, out=np.full_like(np.asarray(numerator, dtype=np.float64), empty), where=denominator != 0
    )
    return quotient


# --- named entities


def entity_keys(record: Record, labels: Sequence[str]) -> set[tuple[str, tuple[Span, ...]]]:
    """The distinct (type, spans) of a record, among these labels."""
    return {(entity.type, entity.spans) for entity in record.entities if entity.type in labels}


def ner_sheet(task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]) -> Sheet:
    """Strict: type and every span equal, counted as sets. nervaluate knows one start and one end per entity, and its
    strict strategy lets an overlapping prediction use up a gold entity that another one meets exactly; the set
    comparison has neither limit and equals it otherwise. Relaxed: nervaluate's `ent_type` (same type, an overlap of
    1 % of the gold entity or more, one to one, closest borders first), discontinuous entities as their hull.
    Ungrounded mentions are false positives.
    """
    sheet, labels = Sheet(len(gold)), list(task.labels)
    for row, (record, prediction) in enumerate(zip(gold, predictions, strict=True)):
        wanted, found = entity_keys(record, labels), entity_keys(prediction.record, labels)
        invented = Counter(kind for kind, _ in prediction.ungrounded)
        _count_strict(sheet, row, wanted, found, invented)
        _count_relaxed(sheet, row, wanted, found, invented)
    seen = [
        label for label in labels if any(f"strict:{part}/{label}" in sheet.columns for part in ("gold", "predicted"))
    ]
    for prefix in ("strict", "relaxed"):
        sheet.add_f1(prefix)
        for label in seen:
            sheet.add_f1(prefix, f"/{label}", ("f1",))
    _add_ungrounded(sheet, predictions, "strict:predicted")
    return sheet


def _seen(sheet: Sheet, labels: Sequence[str]) -> list[str]:
    """The labels that occur in gold or prediction."""
    return [x for x in labels if f"strict:gold/{x}" in sheet.columns or f"strict:predicted/{x}" in sheet.columns]


def _count_strict(sheet: Sheet, row: int, wanted: set[Any], found: set[Any], invented: Mapping[str, int]) -> None:
    """Sets whose members begin with their type → the strict columns, over all types and for each."""
    counts = {
        "hit": Counter(key[0] for key in wanted & found),
        "predicted": Counter(key[0] for key in found) + Counter(invented),
        "gold": Counter(key[0] for key in wanted),
    }
    for part, by_type in counts.items():
        sheet.column(f"strict:{part}")[row] += by_type.total()
        for kind, number in by_type.items():
            sheet.column(f"strict:{part}/{kind}")[row] += number


def _count_relaxed(sheet: Sheet, row: int, wanted: set[Any], found: set[Any], invented: Mapping[str, int]) -> None:
    def flat(keys: set[Any]) -> list[FlatEntity]:
        ordered = sorted((spans[0][0], spans[-1][1], kind) for kind, spans in keys)
        return [FlatEntity(kind, start, end - 1) for start, end, kind in ordered]  # nervaluate's ends are inclusive

    true, predicted = flat(wanted), flat(found)
    strategy = EntityTypeEvaluation(1.0)
    kinds = sorted({entity.label for entity in true + predicted} | set(invented))
    for suffix, chosen in [("", kinds), *((f"/{kind}", [kind]) for kind in kinds)]:
        result, _ = strategy.evaluate(
            [e for e in true if e.label in chosen], [e for e in predicted if e.label in chosen], chosen
        )
        sheet.column(f"relaxed:hit{suffix}")[row] += result.correct
        sheet.column(f"relaxed:predicted{suffix}")[row] += result.actual + sum(invented.get(k, 0) for k in chosen)
        sheet.column(f"relaxed:gold{suffix}")[row] += result.possible


def _add_ungrounded(sheet: Sheet, predictions: Sequence[Prediction], total: str) -> None:
    sheet.columns["ungrounded:count"] = np.array([len(p.ungrounded) for p in predictions], dtype=np.float64)
    sheet.metrics["ungrounded"] = lambda s: divide(s["ungrounded:count"], s[total])


# --- relations


RelationKey = tuple[str, Any, Any]


def relation_keys(task: TaskDefinition, record: Record) -> set[RelationKey]:
    """The distinct (type, head, tail) of a record: an argument is its entity's spans, or its concept id. The order of
    the arguments is dropped if the task says that relations have no direction."""
    spans = {entity.id: entity.spans for entity in record.entities}
    keys = set()
    for relation in record.relations:
        if relation.type not in task.labels or relation.type.lower() == NONE:
            continue
        arguments = [spans.get(reference, reference) for reference in (relation.head, relation.tail)]
        head, tail = arguments if task.directed else sorted(arguments, key=repr)
        keys.add((relation.type, head, tail))
    return keys


def relation_sheet(task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]) -> Sheet:
    """Strict F1 over all gold relations, those included that no candidate pair could express; an ungrounded triple is
    a false positive. Where gold relates concepts and entities are predicted, a predicted mention stands for the
    concept that gold gives a mention with the same spans."""
    sheet = Sheet(len(gold))
    for row, (record, prediction) in enumerate(zip(gold, predictions, strict=True)):
        invented = Counter(kind for kind, _ in prediction.ungrounded)
        wanted, found = relation_keys(task, record), relation_keys(task, prediction.record)
        if task.entities == "predicted" and is_concept_level(task, record):
            found = {_as_concepts(task, key, record, wanted) for key in found}
        _count_strict(sheet, row, wanted, found, invented)
    sheet.add_f1("strict")
    for label in _seen(sheet, list(task.labels)):
        sheet.add_f1("strict", f"/{label}", ("f1",))
    _add_ungrounded(sheet, predictions, "strict:predicted")
    return sheet


def _as_concepts(task: TaskDefinition, key: RelationKey, gold: Record, wanted: set[RelationKey]) -> RelationKey:
    """A predicted relation between mentions as the gold relation between their concepts, if there is one."""
    heads, tails = (
        [concept for entity in gold.entities if entity.spans == spans for concept in entity.concepts]
        for spans in key[1:]
    )
    named = [(key[0], head, tail) for head, tail in product(heads, tails)]
    if not task.directed:
        named += [(kind, tail, head) for kind, head, tail in named]
    return next((candidate for candidate in named if candidate in wanted), key)


# --- classes


def class_sheet(gold: Sequence[str], predicted: Sequence[str | None], *, macro: bool) -> Sheet:
    """Accuracy and macro-F1. Macro-F1 is the mean over the classes that occur in gold or prediction (in a resample:
    that occur there), as scikit-learn counts with labels unset; no answer is an error and no class of its own."""
    sheet = Sheet(len(gold))
    sheet.add_mean("accuracy", [float(a == b) for a, b in zip(gold, predicted, strict=True)])
    if macro:
        classes = sorted({label for label in [*gold, *predicted] if label is not None})
        for row, (wanted, found) in enumerate(zip(gold, predicted, strict=True)):
            sheet.column(f"class:gold/{wanted}")[row] = 1
            if found is not None:
                sheet.column(f"class:predicted/{found}")[row] = 1
            if wanted == found:
                sheet.column(f"class:hit/{wanted}")[row] = 1
        for part in ("hit", "predicted", "gold"):
            for name in classes:
                sheet.column(f"class:{part}/{name}")
        sheet.metrics["macro_f1"] = lambda s: _macro(s, classes)
        for name in classes:
            sheet.add_f1("class", f"/{name}", ("f1",))
    return sheet


def _macro(sums: Mapping[str, Array], classes: Sequence[str]) -> Array:
    per_class = np.stack(
        [
            divide(2 * sums[f"class:hit/{c}"], sums[f"class:predicted/{c}"] + sums[f"class:gold/{c}"], np.nan)
            for c in classes
        ]
    )
    return np.asarray(np.nanmean(per_class, axis=0), dtype=np.float64)


def nli_sheet(task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]) -> Sheet:
    """Accuracy, macro-F1 and F1 per label."""
    labels = [_required(record, record.label, "label") for record in gold]
    return class_sheet(labels, [prediction.record.label for prediction in predictions], macro=True)


def qa_sheet(task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]) -> Sheet:
    """Options: accuracy. Labels: accuracy, macro-F1, F1 per label. Free text: exact match and token F1."""
    answers = [_required(record, gold_answer(record), "answer") for record in gold]
    found = [gold_answer(prediction.record) for prediction in predictions]
    if task.answer_kind != "free":
        return class_sheet(answers, found, macro=task.answer_kind == "labels")
    sheet = Sheet(len(gold))
    pairs = [(answer_words(a), answer_words(b or "")) for a, b in zip(answers, found, strict=True)]
    sheet.add_mean("exact_match", [float(a == b) for a, b in pairs])
    sheet.add_mean("token_f1", [token_f1(a, b) for a, b in pairs])
    return sheet


def _required(record: Record, value: str | None, what: str) -> str:
    if value is None:
        raise TaskError(f"record {record.id} has no gold {what}; score only records that have one.")
    return value


def answer_words(text: str) -> list[str]:
    """Words as SQuAD's evaluation sees them (Rajpurkar et al. 2016): lower case, without punctuation and articles."""
    text = re.sub(r"[^\w\s]|_", "", text.lower())
    return [word for word in text.split() if word not in ("a", "an", "the")]


def token_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """F1 of two bags of words; two empty ones agree."""
    if not gold and not predicted:
        return 1.0
    shared = (Counter(gold) & Counter(predicted)).total()
    return 2 * shared / (len(gold) + len(predicted))


# --- summaries


def summary_sheet(task: TaskDefinition, gold: Sequence[Record], predictions: Sequence[Prediction]) -> Sheet:
    """ROUGE-1, ROUGE-2 and ROUGE-L F (rouge-score, stemmed; ROUGE-L over the whole summary), mean over records."""
    sheet = Sheet(len(gold))
    texts = summaries(gold, predictions)
    scorer = _rouge()
    scores = [scorer.score(wanted, found) for wanted, found in texts]
    for name in ("rouge1", "rouge2", "rougeL"):
        sheet.add_mean(name, [score[name].fmeasure for score in scores])
    return sheet


def summaries(gold: Sequence[Record], predictions: Sequence[Prediction]) -> list[tuple[str, str]]:
    """(gold, predicted) texts of summaries, or of free answers."""
    return [
        (_required(record, record.summary or gold_answer(record), "summary"), found or "")
        for record, found in zip(gold, (p.record.summary or gold_answer(p.record) for p in predictions), strict=True)
    ]


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def bert_scores(texts: Sequence[tuple[str, str]], language: str) -> list[float]:
    """BERTScore F1 per (gold, predicted) pair, rescaled by no baseline; needs the extra `clinprompt[bertscore]`."""
    try:
        import bert_score
    except ImportError:
        raise TaskError(
            "the metric bertscore needs the package bert-score: pip install 'clinprompt[bertscore]', or drop it "
            "from `metrics`."
        ) from None
    gold, predicted = [a for a, _ in texts], [b for _, b in texts]
    _, _, f1 = bert_score.score(predicted, gold, lang=language, verbose=False)
    return [float(value) for value in f1]
