"""Facts a note may state or deny, each with its questions and restatements: the stuff of qa and nli tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinprompt.corpora.sample.writer import Passage, Writer


@dataclass(frozen=True)
class Fact:
    """Sentences that state a fact, sentences that deny it, questions after it, and both restatements.

    All templates of a fact speak of one slot, the `topic`; the word chosen for it links sentence and question.
    """

    topic: str
    stated: tuple[str, ...]
    denied: tuple[str, ...]
    questions: tuple[str, ...]
    claims: tuple[str, ...]
    denials: tuple[str, ...]

    def sentence(self, writer: Writer, *, true: bool, word: str) -> Passage:
        """A sentence of a note that states or denies the fact about this word."""
        return writer.fill(writer.pick(self.stated if true else self.denied), **{self.topic: word})

    def question(self, writer: Writer, word: str) -> str:
        return writer.fill(writer.pick(self.questions), **{self.topic: word}).text

    def claim(self, writer: Writer, word: str, *, true: bool) -> str:
        """A restatement of the fact, or of its opposite."""
        return writer.fill(writer.pick(self.claims if true else self.denials), **{self.topic: word}).text


FACTS = (
    Fact(
        "symptom",
        (
            "{who} reports {symptom} for {span}.", "Complains of {severity} {symptom}.", "Presents with {symptom}.",
            "{symptom} started {ago}.", "{he} has been troubled by {symptom}.",
        ),
        (
            "Denies {symptom}.", "No {symptom}.", "There has been no {symptom}.", "{symptom} has resolved.",
            "Negative for {symptom}.",
        ),
        ("Does the patient have {symptom}?", "Is there {symptom}?", "Is {symptom} present?"),
        ("The patient has {symptom}.", "{symptom} is present."),
        ("The patient does not have {symptom}.", "There is no {symptom}."),
    ),
    Fact(
        "disease",
        (
            "History of {disease}.", "Past medical history is significant for {disease}.",
            "{disease} was diagnosed in {year}.", "Known {disease} since {year}.",
        ),
        (
            "No history of {disease}.", "{he} has never had {disease}.", "{disease} was ruled out in {year}.",
            "Without a history of {disease}.",
        ),
        ("Is there a history of {disease}?", "Does the patient have {disease}?"),
        ("The patient has {disease}.", "{disease} is known."),
        ("The patient does not have {disease}.", "There is no history of {disease}."),
    ),
    Fact(
        "drug",
        (
            "Takes {drug} {dose} {frequency}.", "{drug} was started {ago}.", "Currently on {drug} for {reason}.",
            "{drug} was continued at {dose}.",
        ),
        (
            "{drug} was stopped {ago}.", "No longer takes {drug}.", "{he} refused {drug}.",
            "{drug} was discontinued because of {event}.",
        ),
        ("Is the patient taking {drug}?", "Is {drug} a current medication?"),
        ("The patient takes {drug}.", "{drug} is a current medication."),
        ("The patient does not take {drug}.", "{drug} is not taken."),
    ),
    Fact(
        "procedure",
        (
            "Underwent {procedure} {ago}.", "Status post {procedure} in {year}.",
            "{procedure} was done without complications.",
        ),
        (
            "{procedure} was canceled.", "{he} declined {procedure}.", "No prior {procedure}.",
            "{procedure} was considered but not done.",
        ),
        ("Has {procedure} been done?", "Did the patient undergo {procedure}?"),
        ("The patient underwent {procedure}.", "{procedure} was done."),
        ("The patient has not had {procedure}.", "{procedure} was not done."),
    ),
    Fact(
        "test",
        ("{test} was abnormal at {high}.", "{test} is out of range.", "{test} {high}, abnormal."),
        ("{test} was normal at {normal}.", "{test} is within normal limits.", "{test} {normal}, normal."),
        ("Is the {test} abnormal?",),
        ("The {test} is abnormal.",),
        ("The {test} is normal.",),
    ),
    Fact(
        "disease",
        ("{his} {relative} had {disease}.", "Family history of {disease}."),
        ("No family history of {disease}.", "{disease} does not run in the family."),
        ("Is there a family history of {disease}?", "Does {disease} run in the family?"),
        ("{disease} runs in the family.", "There is a family history of {disease}."),
        ("There is no {disease} in the family.",),
    ),
    Fact(
        "drug",
        ("Allergic to {drug}.", "{drug} allergy with {event}.", "{drug} gave {event} in the past."),
        ("No allergy to {drug}.", "Tolerates {drug} well."),
        ("Is {drug} poorly tolerated?", "Is there a problem with {drug}?"),
        ("{drug} is not tolerated.",),
        ("{drug} is tolerated.",),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """A fact about a word, as it stands in a note."""

    fact: Fact
    word: str
    true: bool


def statements(writer: Writer, count: int, *, true: bool) -> tuple[list[Statement], Sequence[Passage]]:
    """`count` facts of different kinds with their sentences; the first is true as asked, the others by chance."""
    facts = writer.rng.sample(FACTS, count)
    chosen = [
        Statement(fact, writer.term(fact.topic), true if place == 0 else writer.chance(0.5))
        for place, fact in enumerate(facts)
    ]
    return chosen, [s.fact.sentence(writer, true=s.true, word=s.word) for s in chosen]


def shuffled(writer: Writer, passages: Sequence[Passage]) -> str:
    """The sentences in random order, as one text."""
    order = list(passages)
    writer.rng.shuffle(order)
    text = Passage("")
    for part in order:
        text += part
    return text.text
