"""MMLU and the eight commonsense data sets: a question and its options."""

from __future__ import annotations

from collections.abc import Sequence

from clinprompt.corpora.general.row import Converter, HubRow
from clinprompt.corpora.splits import text_group
from clinprompt.records import Record

_LETTERS = "ABCD"


def _numbered(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((str(number), text) for number, text in enumerate(texts, start=1))


def _mmlu(row: HubRow) -> Record:
    texts = row.texts("choices")
    if len(texts) != len(_LETTERS):
        raise row.error("choices", "holds no four texts.")
    options = tuple(zip(_LETTERS, texts, strict=True))
    question = row.text("question")
    answer = row.label("answer", [key for key, _ in options])
    meta = {"subject": row.text("subject")}
    return Record(
        row.name, "", question=question, options=options, answer=answer, group=text_group(question), meta=meta
    )


def _boolq(row: HubRow) -> Record:
    passage, answer = row.text("passage"), row.values["answer"]
    if not isinstance(answer, bool):
        raise row.error("answer", "is neither true nor false.")
    yes_no = "yes" if answer else "no"
    return Record(row.name, passage, question=row.text("question"), answer=yes_no, group=text_group(passage))


def _piqa(row: HubRow) -> Record:
    goal = row.text("goal")
    options = _numbered([row.text("sol1"), row.text("sol2")])
    answer = row.label("label", ("1", "2"))
    return Record(row.name, "", question=goal, options=options, answer=answer, group=text_group(goal))


def _siqa(row: HubRow) -> Record:
    """The label counts from 1, as text."""
    context = row.text("context")
    options = tuple((letter, row.text(f"answer{letter}")) for letter in "ABC")
    answer = {1: "A", 2: "B", 3: "C"}.get(row.integer("label"))
    if answer is None:
        raise row.error("label", "is none of 1, 2 and 3.")
    question = row.text("question")
    return Record(row.name, context, question=question, options=options, answer=answer, group=text_group(context))


def _hellaswag(row: HubRow) -> Record:
    """Grouped by source: several contexts are cut from one video or article."""
    options = _numbered(row.texts("endings"))
    return Record(
        row.name,
        f"{row.text('activity_label')}: {row.text('ctx')}",
        question="How does it go on?",
        options=options,
        answer=row.label("label", [key for key, _ in options]),
        group=row.text("source_id"),
    )


def _winogrande(row: HubRow) -> Record:
    """Grouped by the pair of options: twin sentences share it."""
    first, second = row.text("option1"), row.text("option2")
    answer = row.text("answer")
    if answer not in ("1", "2"):
        raise row.error("answer", "is neither 1 nor 2.")
    return Record(
        row.name,
        row.text("sentence"),
        question="What does the gap _ stand for?",
        options=(("1", first), ("2", second)),
        answer=answer,
        group=text_group(f"{min(first, second)} {max(first, second)}"),
    )


def _with_choices(column: str) -> Converter:
    """AI2's science questions: `choices` holds parallel lists, some keys are digits."""

    def record(row: HubRow) -> Record:
        choices = row.structure("choices", "text", "label")
        keys, texts = row.texts("choices", choices["label"]), row.texts("choices", choices["text"])
        answer, question = row.text("answerKey"), row.text(column)
        if len(keys) != len(texts) or answer not in keys:
            raise row.error("answerKey", "is no label of the choices.")
        options = tuple(zip(keys, texts, strict=True))
        return Record(row.name, "", question=question, options=options, answer=answer, group=text_group(question))

    return Converter((column, "choices", "answerKey"), record)


MMLU = Converter(("question", "subject", "choices", "answer"), _mmlu)
BOOLQ = Converter(("passage", "question", "answer"), _boolq)
PIQA = Converter(("goal", "sol1", "sol2", "label"), _piqa)
SIQA = Converter(("context", "question", "answerA", "answerB", "answerC", "label"), _siqa)
HELLASWAG = Converter(("activity_label", "ctx", "endings", "source_id", "label"), _hellaswag)
WINOGRANDE = Converter(("sentence", "option1", "option2", "answer"), _winogrande)
ARC = _with_choices("question")
OPENBOOKQA = _with_choices("question_stem")
