"""SuperGLUE (Wang et al. 2019, arXiv 1905.00537) as the hub's repository aps/super_glue stores it."""

from __future__ import annotations

import re

from clinprompt.corpora.general.glue import pair
from clinprompt.corpora.general.row import Converter, HubRow
from clinprompt.corpora.splits import text_group
from clinprompt.records import Record

_NO_YES = ("no", "yes")
_COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}


def _boolq(row: HubRow) -> Record:
    passage = row.text("passage")
    answer = row.label("label", _NO_YES)
    return Record(row.name, passage, question=row.text("question"), answer=answer, group=text_group(passage))


def _copa(row: HubRow) -> Record:
    premise, asked = row.text("premise"), row.text("question")
    if asked not in _COPA_QUESTIONS:
        raise row.error("question", "is neither 'cause' nor 'effect'.")
    return Record(
        row.name,
        premise,
        question=_COPA_QUESTIONS[asked],
        options=(("1", row.text("choice1")), ("2", row.text("choice2"))),
        answer=row.label("label", ("1", "2")),
        group=text_group(premise),
    )


def _multirc(row: HubRow) -> Record:
    """One candidate answer: the paragraph is the premise, question and answer the hypothesis. `meta` names the
    question, because exact match is counted over questions."""
    place = row.structure("idx", "paragraph", "question")
    paragraph = row.text("paragraph")
    return Record(
        row.name,
        paragraph,
        hypothesis=f"{row.text('question')} {row.text('answer')}",
        label=row.label("label", ("wrong", "correct")),
        group=text_group(paragraph),
        meta={"question": f"{place['paragraph']}:{place['question']}"},
    )


def _record(row: HubRow) -> Record:
    """The entities of the passage are the options, each once; an answer may be any of several, which `meta` keeps. The
    first one among the options is what is taught."""
    options = tuple((str(i), text) for i, text in enumerate(dict.fromkeys(row.texts("entities")), start=1))
    answers = row.texts("answers")
    gold = next((key for key, text in options if text in answers), None)
    if gold is None:
        raise row.error("answers", "names no entity of the passage.")
    passage = highlights(row.text("passage"))
    return Record(
        row.name,
        passage,
        question=row.text("query"),
        options=options,
        answer=gold,
        group=text_group(passage),
        meta={"answers": tuple(dict.fromkeys(answers))},
    )


def highlights(passage: str) -> str:
    """The bullet points after an article as sentences, as T5 writes them (its preprocessor of ReCoRD)."""
    passage = re.sub(r"(\.|\?|\!|\"|\')\n@highlight\n", r"\1 ", passage)
    return re.sub(r"\n@highlight\n", ". ", passage)


def _wic(row: HubRow) -> Record:
    first, word = row.text("sentence1"), row.text("word")
    return Record(
        row.name,
        f"{first}\n{row.text('sentence2')}",
        question=f'Does "{word}" have the same meaning in both sentences?',
        answer=row.label("label", ("different", "same")),
        group=text_group(word),
    )


def _wsc(row: HubRow) -> Record:
    text = row.text("text")
    pronoun = row.text("span2_text")
    return Record(
        row.name,
        marked(text, row.integer("span2_index"), pronoun),
        question=f'Does *{pronoun}* refer to "{row.text("span1_text")}"?',
        answer=row.label("label", _NO_YES),
        group=text_group(text),
    )


def marked(text: str, index: int, word: str) -> str:
    """`text` with stars around `word`, which begins its `index`-th word (from 0). Where it does not stand there, the
    text stays unmarked: the published indices have such places, and T5's preprocessor does the same."""
    if index < 0:
        return text
    pattern = rf"^((?:\S+\s+){{{index}}})({re.escape(word)})"
    return re.sub(pattern, r"\1*\2*", text, count=1)


BOOLQ = Converter(("passage", "question", "label"), _boolq)
CB = pair("premise", "hypothesis", "entailment", "contradiction", "neutral")
COPA = Converter(("premise", "question", "choice1", "choice2", "label"), _copa)
MULTIRC = Converter(("paragraph", "question", "answer", "idx", "label"), _multirc)
RECORD = Converter(("passage", "query", "entities", "answers"), _record)
WIC = Converter(("word", "sentence1", "sentence2", "label"), _wic)
WSC = Converter(("text", "span2_index", "span1_text", "span2_text", "label"), _wsc)
