"""One free synthetic clinic note with its entities, to show a prediction on something longer than a training record."""

from __future__ import annotations

from random import Random

from clinprompt.corpora.sample.writer import Passage, Writer
from clinprompt.records import Record

TYPES = {
    "drug": "Drug",
    "symptom": "Symptom",
    "disease": "Disease",
    "reason": "Disease",
    "event": "Adverse event",
    "procedure": "Procedure",
}

_NOTE = (
    "{age}-year-old {man} seen in clinic on {date} for follow-up of {disease}.",
    "{he} reports {symptom} for {span} and {severity} {symptom2}, but denies {symptom3}.",
    "Past medical history includes {disease2} and {disease3}; {he} underwent {procedure} in {year}.",
    "Current medications are {drug} {dose} {frequency} for {reason} and {drug2} {dose2} {frequency2}.",
    "{drug3} was stopped {ago} because it caused {event3}.",
    "{he} works as a {job} and lives with {his} {relative}.",
    "Examination of the {limb} was normal.",
    "{test} was {value} and {imaging} showed no new findings.",
    "Plan: continue {drug4} at {dose4}, schedule {procedure2}, and return in {span2}.",
)


def sample_note(*, seed: int = 0) -> Record:
    """A note of nine sentences (about 110 words) with every mention of the six `TYPES` as gold."""
    writer = Writer(Random(f"{seed}/note"), "test")
    text = Passage("")
    for template in _NOTE:
        text += writer.fill(template)
    return Record(
        id=f"sample-note-{seed}", text=text.text, entities=text.entities(TYPES), group="note", meta={"synthetic": True}
    )
