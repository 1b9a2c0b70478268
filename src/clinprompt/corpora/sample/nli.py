"""Inference: claims on a note, orders on a medication list (sources), claims on radiology findings (target)."""

from __future__ import annotations

from clinprompt.corpora.sample import radiology
from clinprompt.corpora.sample.facts import FACTS, shuffled, statements
from clinprompt.corpora.sample.task import Recipe
from clinprompt.corpora.sample.writer import Passage, Writer
from clinprompt.records import Record


def _claim(writer: Writer, stratum: str) -> Record:
    """One to three facts; the claim restates one, turns it round, or speaks of something the note leaves open."""
    chosen, sentences = statements(writer, 1 + writer.chance(0.5) + writer.chance(0.25), true=writer.chance(0.5))
    about = chosen[0]
    if stratum == "unclear":
        other = about.fact if writer.chance(0.5) else writer.rng.choice(FACTS)
        hypothesis = other.claim(writer, writer.term(other.topic), true=writer.chance(0.5))
    else:
        hypothesis = about.fact.claim(writer, about.word, true=about.true == (stratum == "supported"))
    return Record(id="", text=shuffled(writer, sentences), hypothesis=hypothesis, label=stratum)


_ITEM = ("{drug} {dose} {frequency}", "{drug} {dose}, {frequency}", "{drug} {dose} {frequency} for {reason}")
_HEADINGS = ("Medications:", "Current medications:", "Home medications:", "Discharged on", "Takes", "Med list:")
_ORDERS = (
    "The patient takes {drug} {dose}.",
    "{drug} {dose} is on the list.",
    "The dose of {drug} is {dose}.",
    "{drug} is taken at {dose}.",
)


def _order(writer: Writer, stratum: str) -> Record:
    """A list of two to four drugs; the order names one of them, one with another dose, or one that is not there."""
    items = [writer.fill(writer.pick(_ITEM)) for _ in range(2 + writer.chance(0.6) + writer.chance(0.3))]
    words = {slot.name: slot.word for slot in items[writer.rng.randrange(len(items))].slots}
    drug, dose = words["drug"], words["dose"]
    if stratum == "missing":
        drug = writer.term("drug")
    elif stratum == "differs":
        number, unit = dose.split(" ", 1)
        dose = f"{float(number) * writer.rng.choice((0.5, 2, 4)):g} {'puffs' if unit == 'puff' else unit}"
    listed = "; ".join(_inside(item) for item in items)
    text = f"{writer.pick(_HEADINGS)} {listed}."
    return Record(
        id="", text=text, hypothesis=writer.fill(writer.pick(_ORDERS), drug=drug, dose=dose).text, label=stratum
    )


def _inside(item: Passage) -> str:
    """An item as it is written within a list: its first word (the drug's) without the capital of a sentence."""
    first = item.slots[0]
    return first.word + item.text[first.end :]


_POSITIVE = ("There is {what}.", "{what} is present.", "The patient has {what}.", "Imaging shows {what}.")
_NEGATIVE = ("There is no {what}.", "{what} is absent.", "Imaging does not show {what}.")


def _radiology(writer: Writer, stratum: str) -> Record:
    """One to three findings, each seen or denied; the claim follows one, contradicts one, or is about another."""
    examination = radiology.examination(writer)
    count = 1 + writer.chance(0.6) + writer.chance(0.2)
    about, *others, outside = radiology.findings(writer, examination, count + 1)
    seen = writer.chance(0.5)
    sentences = [(radiology.shown if seen else radiology.absent)(writer, about)]
    sentences += [(radiology.shown if writer.chance(0.5) else radiology.absent)(writer, other) for other in others]
    subject = outside if stratum == "neutral" else about
    affirm = writer.chance(0.5) if stratum == "neutral" else seen == (stratum == "entailment")
    what = radiology.plain(subject.seen) if not affirm else subject.seen
    if writer.chance(0.4):
        what = subject.concluded
    hypothesis = writer.fill(writer.pick(_POSITIVE if affirm else _NEGATIVE), what=what).text
    premise = shuffled(writer, [Passage(sentence) for sentence in sentences])
    return Record(id="", text=f"{writer.pick(examination.names)}: {premise}", hypothesis=hypothesis, label=stratum)


RECIPES = (
    Recipe(
        "sample-claims", "source", "nli", "Whether a note supports a claim.", _claim,
        ("supported", "refuted", "unclear"),
        {
            "supported": "the note says so", "refuted": "the note says the opposite",
            "unclear": "the note does not say",
        },
    ),
    Recipe(
        "sample-orders", "source", "nli", "Whether an order agrees with a medication list.", _order,
        ("agrees", "differs", "missing"),
        {
            "agrees": "the drug is listed with this dose", "differs": "the drug is listed with another dose",
            "missing": "the drug is not listed",
        },
    ),
    Recipe(
        "sample-radiology", "target", "nli", "Whether a claim follows from radiology findings.", _radiology,
        ("entailment", "contradiction", "neutral"),
        {
            "entailment": "the findings imply the claim", "contradiction": "the findings rule the claim out",
            "neutral": "the findings leave it open",
        },
    ),
)  # fmt: skip
