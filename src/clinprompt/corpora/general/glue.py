"""GLUE (Wang et al. 2019, arXiv 1804.07461) as the hub's repository nyu-mll/glue stores it, and RTE of SuperGLUE."""

from __future__ import annotations

from clinprompt.corpora.general.row import Converter, HubRow
from clinprompt.corpora.splits import text_group
from clinprompt.records import Record


def sentence(question: str, *labels: str) -> Converter:
    """One sentence and its class (CoLA, SST-2), asked as a question so that the codec of `answers: labels` serves."""

    def record(row: HubRow) -> Record:
        text = row.text("sentence")
        answer = row.label("label", labels)
        return Record(row.name, text, question=question, answer=answer, group=text_group(text))

    return Converter(("sentence", "label"), record)


def pair(premise: str, hypothesis: str, *labels: str) -> Converter:
    """Two texts, by their columns, and their class. Pairs with the same first column stay on one side of a split."""

    def record(row: HubRow) -> Record:
        text, second = row.text(premise), row.text(hypothesis)
        return Record(row.name, text, hypothesis=second, label=row.label("label", labels), group=text_group(text))

    return Converter((premise, hypothesis, "label"), record)


def _stsb(row: HubRow) -> Record:
    """The label is the similarity rounded to the nearest 0.2, as T5 has it (arXiv 1910.10683, §2.4); correlations are
    computed with the exact value, which `meta` keeps."""
    first, score = row.text("sentence1"), row.number_in("label", 0, 5)
    meta = {"score": score}
    label = rounded(score)
    return Record(row.name, first, hypothesis=row.text("sentence2"), label=label, group=text_group(first), meta=meta)


def rounded(score: float) -> str:
    """To the nearest 0.2, one decimal: 2.57 → ``2.6``. A score half way goes to the even multiple, as in T5; the hub
    stores 32-bit numbers, whose error is taken away first."""
    return f"{round(round(score * 5, 4)) / 5:.1f}"


COLA = sentence("Is this acceptable English?", "unacceptable", "acceptable")
SST2 = sentence("What is the sentiment?", "negative", "positive")
MRPC = pair("sentence1", "sentence2", "not_equivalent", "equivalent")
QQP = pair("question1", "question2", "not_duplicate", "duplicate")
STSB = Converter(("sentence1", "sentence2", "label"), _stsb)
MNLI = pair("premise", "hypothesis", "entailment", "neutral", "contradiction")
QNLI = pair("sentence", "question", "entailment", "not_entailment")
RTE = pair("sentence1", "sentence2", "entailment", "not_entailment")
WNLI = pair("sentence1", "sentence2", "not_entailment", "entailment")
SUPERGLUE_RTE = pair("premise", "hypothesis", "entailment", "not_entailment")
