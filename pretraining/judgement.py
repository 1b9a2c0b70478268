"""Tasks with a chosen or free answer made from raw text by rule: pairs, options, marked words, titles, questions.

Each function draws one example, or None when the material does not allow one. `Drawn` is not yet announced: the
instruction, or the code that stands for it, is added in `pretraining.selfsupervised`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from pretraining.clusters import STOP
from pretraining.corpus import Document
from pretraining.extraction import Window, window_of


@dataclass(frozen=True, slots=True)
class Drawn:
    """First line, the lines after it, the answer."""

    instruction: str
    body: str
    answer: str


@dataclass(frozen=True, slots=True)
class Material:
    """What examples are made of: documents and windows, and the windows of each document in order."""

    documents: list[Document]
    windows: list[Window]
    by_document: dict[int, list[int]]


VERB = re.compile(r"\b(was|were|is|are|has been|have been|had|did|can|may|should)\b(?! not\b)")
NEGATION = re.compile(r"\b(was|were|is|are|did|has|have|had|does|do) not ")
LABELS = (
    ("entailment", "neutral", "contradiction"), ("yes", "maybe", "no"), ("supports", "neutral", "refutes"),
    ("true", "unclear", "false"), ("agree", "unrelated", "disagree"), ("same", "other", "opposite"),
)  # fmt: skip
TRIGGERS: dict[str, re.Pattern[str]] = {
    "increase": re.compile(r"\b(increas|elevat|enhanc|improv|higher|greater)\w*"),
    "decrease": re.compile(r"\b(decreas|reduc|lower|diminish|attenuat|declin)\w*"),
    "cause": re.compile(r"\b(caus|induc|lead|led|result|due to|trigger|produc)\w*"),
    "treat": re.compile(r"\b(treat|therap|manag|administ|given|receiv)\w*"),
    "prevent": re.compile(r"\b(prevent|inhibit|block|suppress|protect)\w*"),
    "associate": re.compile(r"\b(associat|correlat|relat|link|connect)\w*"),
    "compare": re.compile(r"\b(compar|versus|than|vs)\w*"),
    "reveal": re.compile(r"\b(reveal|show|demonstrat|confirm|indicat|suggest)\w*"),
}
NONE = "none"


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z(])|\n", text) if 30 <= len(s) <= 260]


def content_words(text: str) -> list[str]:
    return [w for w in re.findall(r"[a-zA-Z][a-zA-Z-]{3,}", text) if w.lower() not in STOP]


def negate(sentence: str) -> str | None:
    """The same statement denied: a `not` taken out or put after the first auxiliary; None if there is none."""
    if NEGATION.search(sentence):
        return NEGATION.sub(r"\1 ", sentence, count=1)
    if VERB.search(sentence):
        return VERB.sub(r"\1 not", sentence, count=1)
    return None


def shorten(sentence: str, draw: random.Random) -> str:
    """A statement that follows from a sentence, roughly: parentheses and a subordinate end are cut."""
    short = re.sub(r" ?\([^()]*\)", "", sentence)
    parts = re.split(r", (?=which|and|with|but|who|while|although)| (?=because |after |before |during |when )", short)
    if len(parts) > 1 and len(parts[0]) > 25:
        short = parts[0].rstrip(" ,.") + "."
    return short if draw.random() < 0.8 else short.lower()


def inference(material: Material, draw: random.Random) -> Drawn | None:
    """Does the hypothesis repeat (shortened), deny, or have nothing to do with a sentence of the premise?"""
    document = draw.choice(material.documents)
    known = sentences(document.text)
    if len(known) < 4:
        return None
    start = draw.randrange(len(known) - 2)
    premise = known[start : start + draw.randint(1, 2)]
    kind = draw.randrange(3)
    chosen = draw.choice(premise)
    hypothesis: str | None
    if kind == 0:
        hypothesis = shorten(chosen, draw)
    elif kind == 1:
        others = [s for s in known if s not in premise]
        hypothesis = shorten(draw.choice(others), draw) if others else None
    else:
        hypothesis = negate(shorten(chosen, draw))
    if hypothesis is None:
        return None
    labels = draw.choice(LABELS)
    shown = list(labels)
    if draw.random() < 0.5:
        draw.shuffle(shown)
    body = f"Premise: {' '.join(premise)}\nHypothesis: {hypothesis}"
    return Drawn(f"Choose: {', '.join(shown)}.", body, labels[kind])


def follows(material: Material, draw: random.Random) -> Drawn | None:
    """Do two sentences stand next to each other, or are they from different documents?"""
    document, other = draw.sample(material.documents, 2)
    known, strange = sentences(document.text), sentences(other.text)
    if len(known) < 2 or not strange:
        return None
    start = draw.randrange(len(known) - 1)
    true = draw.random() < 0.5
    yes, no = draw.choice([("yes", "no"), ("related", "unrelated"), ("entailment", "not_entailment"), ("1", "0")])
    second = known[start + 1] if true else draw.choice(strange)
    return Drawn(f"Choose: {yes}, {no}.", f"Premise: {known[start]}\nHypothesis: {second}", yes if true else no)


def mentioned(material: Material, draw: random.Random) -> Drawn | None:
    """Is a word, or a word of another text, mentioned?"""
    window, other = draw.sample(material.windows, 2)
    own, foreign = content_words(window.text), content_words(other.text)
    foreign = [w for w in foreign if w.lower() not in window.text.lower()]
    if not own or not foreign:
        return None
    true = draw.random() < 0.5
    word = draw.choice(own if true else foreign)
    question = draw.choice(("Does the text mention {}?", "Is {} mentioned?", "Is there anything about {}?"))
    body = f"Text: {window.text}\nQuestion: {question.format(word)}"
    return Drawn("Choose: yes, no.", body, "yes" if true else "no")


def continuation(material: Material, draw: random.Random) -> Drawn | None:
    """Which option completes the passage? The wrong ones come from the same document."""
    document = draw.choice(material.documents)
    known = [s for s in sentences(document.text) if not re.search(r"[;:|]", s) and len(s) < 140]
    if len(known) < 6:
        return None
    start = draw.randrange(len(known) - 2)
    right = known[start + 1]
    options = [right, *draw.sample([s for s in known if s not in (right, known[start])], draw.randint(1, 3))]
    draw.shuffle(options)
    body = f"Text: {known[start]}\nQuestion: {draw.choice(('What follows?', 'Which comes next?'))}"
    return Drawn("Choose the answer.", f"{body}\nOptions: {'; '.join(options)}", right)


def cloze(material: Material, draw: random.Random) -> Drawn | None:
    """Which word is missing?"""
    window = draw.choice(material.windows)
    words = sorted(set(content_words(window.text)))
    strange = content_words(draw.choice(material.windows).text)
    if len(words) < 3 or len(strange) < 3:
        return None
    right = draw.choice(words)
    options = [right, *draw.sample(strange, 3)]
    draw.shuffle(options)
    text = re.sub(rf"\b{re.escape(right)}\b", "____", window.text)
    return Drawn(
        "Choose the answer.", f"Text: {text}\nQuestion: Which word is missing?\nOptions: {'; '.join(options)}", right
    )


def relation(material: Material, draw: random.Random) -> Drawn | None:
    """Two marked words and the kind of verb between them."""
    window = draw.choice(material.windows)
    places = [i for i, w in enumerate(window.words) if len(w) > 3 and w[0].isalpha() and w not in STOP]
    if len(places) < 4:
        return None
    first, second = sorted(draw.sample(places, 2))
    between = window.text[window.spans[first][1] : window.spans[second][0]]
    found = [name for name, pattern in TRIGGERS.items() if pattern.search(between)]
    if len(found) > 1 or len(between) > 120 or (not found and draw.random() < 0.6):
        return None
    answer = found[0] if found else NONE
    (a, b), (c, d) = window.spans[first], window.spans[second]
    text = window.text
    marked = f"{text[:a]}<< {text[a:b]} >>{text[b:c]}[[ {text[c:d]} ]]{text[d:]}"
    labels = draw.sample([t for t in TRIGGERS if t != answer], draw.randint(1, 4)) + ([answer] if found else [])
    draw.shuffle(labels)
    return Drawn(f"Choose the relation of << >> and [[ ]]: {', '.join([*labels, NONE])}.", f"Text: {marked}", answer)


def triples(material: Material, draw: random.Random) -> Drawn | None:
    """End to end: the words next to a verb of one kind, written as head | kind | tail."""
    window = draw.choice(material.windows)
    names = draw.sample(sorted(TRIGGERS), draw.randint(1, 3))
    answers = []
    word, before = r"([a-zA-Z-]{{4,}})", r"(?:was |were |is |are |has |have )?"
    pattern = rf"\b{word} {before}(?:{{}}) (?:by |with |to |the |in |a |an )*{word}\b"
    for name in names:
        for match in re.finditer(pattern.format(TRIGGERS[name].pattern.removeprefix(r"\b")), window.text):
            head, tail = match.group(1), match.groups()[-1]
            if head.lower() not in STOP and tail.lower() not in STOP:
                answers.append((match.start(), f"{head} | {name} | {tail}"))
    if not answers and draw.random() < 0.85:
        return None
    answer = "; ".join(text for _, text in sorted(answers)) or NONE
    return Drawn(f"Find relations: {', '.join(names)}.", f"Text: {window.text}", answer)


def _parts(text: str, most: int = 900) -> str:
    return text if len(text) <= most else text[:most].rpartition(". ")[0] + "."


def title(material: Material, draw: random.Random) -> Drawn | None:
    document = draw.choice(material.documents)
    if not document.title or len(document.title) > 200:
        return None
    line = draw.choice(("Give a title.", "Title.", "Summarize in one line."))
    return Drawn(line, f"Text: {_parts(document.text)}", document.title)


def conclusion(material: Material, draw: random.Random) -> Drawn | None:
    document = draw.choice(material.documents)
    if not 40 < len(document.conclusion) < 500:
        return None
    return Drawn(draw.choice(("Summarize.", "Conclude.")), f"Text: {_parts(document.text, 1500)}", document.conclusion)


def answer(material: Material, draw: random.Random) -> Drawn | None:
    """A patient question and the first sentence of its answer, with or without the text it stands in; or reversed."""
    document = draw.choice(material.documents)
    if not document.question:
        return None
    first = _parts(document.text, 260)
    if len(first) < 30:
        return None
    kind = draw.random()
    if kind < 0.4:
        return Drawn("Answer the question.", f"Question: {document.question}", first)
    if kind < 0.7:
        return Drawn("Answer the question.", f"Text: {_parts(document.text)}\nQuestion: {document.question}", first)
    return Drawn("Which question does the text answer?", f"Text: {_parts(document.text, 500)}", document.question)


def edge(material: Material, draw: random.Random) -> Drawn | None:
    """Copying: the first or last sentence, the sentence with a given word, or the text itself."""
    window = draw.choice(material.windows)
    known = sentences(window.text)
    if len(known) < 2:
        if len(window.text) > 160:
            return None
        return Drawn(draw.choice(("Repeat the text.", "Copy.")), f"Text: {window.text}", window.text)
    kind = draw.randrange(3)
    if kind == 0:
        return Drawn(
            draw.choice(("First sentence.", "Summarize by the first sentence.")), f"Text: {window.text}", known[0]
        )
    if kind == 1:
        return Drawn("Last sentence.", f"Text: {window.text}", known[-1])
    chosen = draw.choice(known)
    words = [w for w in content_words(chosen) if window.text.count(w) == 1]
    if not words:
        return None
    return Drawn(
        "Answer the question.", f"Text: {window.text}\nQuestion: What is said about {draw.choice(words)}?", chosen
    )


def after(material: Material, draw: random.Random) -> Drawn | None:
    """The words that follow a given pair of words: plain look-up and copy."""
    window = draw.choice(material.windows)
    if len(window.words) < 14:
        return None
    i = draw.randrange(len(window.words) - 8)
    last = i + 2 + draw.randint(1, 4)
    cue = window.text[window.spans[i][0] : window.spans[i + 1][1]]
    if window.text.count(cue) != 1:
        return None
    answer_text = window.text[window.spans[i + 2][0] : window.spans[last][1]]
    return Drawn("Answer the question.", f"Text: {window.text}\nQuestion: What comes after {cue}?", answer_text)


KINDS: dict[str, tuple[Callable[[Material, random.Random], Drawn | None], float]] = {
    "inference": (inference, 4), "follows": (follows, 1), "mentioned": (mentioned, 1.5),
    "continuation": (continuation, 1), "cloze": (cloze, 2), "relation": (relation, 3), "triples": (triples, 1),
    "title": (title, 1), "conclusion": (conclusion, 1),
    "answer": (answer, 1), "edge": (edge, 1.5), "after": (after, 1.5),
}  # fmt: skip
"""Every kind with its share of the mixture."""

__all__ = ["KINDS", "Drawn", "Material", "window_of"]
