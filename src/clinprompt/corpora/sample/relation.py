"""Relations between given entities: dose of a drug, outcome of a test (sources); why a drug is named (target)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clinprompt.corpora.sample.ner import OPENINGS
from clinprompt.corpora.sample.task import Recipe, Write
from clinprompt.corpora.sample.writer import Passage, Writer, number_of
from clinprompt.records import Record, Relation

# Slots of one number belong together: {drug2} with {dose2}. Numbers above 5 stand alone.
_DOSES = {
    "one": (
        "{who} takes {drug} {dose} {frequency}.",
        "{drug}, which {he} stopped, was replaced by {drug2} {dose2} {frequency2}.",
        "Start {drug} at {dose} and continue {drug2} as before.",
        "{dose} of {drug} was given {ago}; {drug2} was withheld.",
        "Instead of {drug}, {he} now takes {dose2} of {drug2}.",
        "{drug} at a dose of {dose} {frequency} controls {his} {reason}.",
        "The dose of {drug} was raised to {dose}, {drug2} was stopped.",
    ),
    "two": (
        "{drug} {dose} {frequency} and {drug2} {dose2} {frequency2}.",
        "Medications: {drug} {dose}, {drug2} {dose2}.",
        "{dose} of {drug} {frequency} with {dose2} of {drug2} {frequency2}.",
        "{drug} was lowered to {dose} and {drug2} was raised to {dose2}.",
        "Continue {drug} {dose} {frequency}; add {drug2} {dose2} {frequency2} for {reason2}.",
        "{drug} and {drug2} were given at {dose} and {dose2}, respectively.",
        "After {dose} of {drug} failed, {drug2} {dose2} was tried.",
        "Switch from {drug} {dose} to {drug2} {dose2} {frequency2}.",
    ),
}

_OUTCOMES = {
    "shows": (
        "{imaging} showed {disease}.",
        "{disease} was found on {imaging}.",
        "{imaging} was consistent with {disease}; {disease6} was known before.",
        "{imaging} on {date} revealed {disease}.",
        "{imaging} confirmed {disease}, while {imaging2} ruled out {disease2}.",
        "The diagnosis of {disease} was made by {imaging}.",
        "Findings on {imaging} are typical of {disease}.",
    ),
    "excludes": (
        "{imaging} ruled out {disease}.",
        "{imaging} showed no evidence of {disease}.",
        "There was no sign of {disease} on {imaging}.",
        "{imaging} was negative for {disease}.",
        "{disease} was excluded by {imaging} on {date}.",
        "{disease} is unlikely after a normal {imaging}; {imaging2} found {disease2}.",
        "{imaging} was done and {disease} could be excluded.",
    ),
    "seeks": (
        "{imaging} was ordered to look for {disease}.",
        "Will get {imaging} because of suspected {disease}.",
        "{imaging} is planned to evaluate for {disease}.",
        "Concern for {disease}, so {imaging} was requested.",
        "To check for {disease}, schedule {imaging} in {span}.",
        "{imaging} is pending for possible {disease}; {disease6} is stable.",
        "{imaging} was booked to rule out {disease}.",
    ),
}
_SECOND_OUTCOME = {
    "{imaging} confirmed {disease}, while {imaging2} ruled out {disease2}.": "excludes",
    "{disease} is unlikely after a normal {imaging}; {imaging2} found {disease2}.": "shows",
}

_PURPOSES = {
    "treats": (
        "{who} was given {drug} for {reason}.",
        "{reason} responded to {drug}, and {his} {reason6} did not change.",
        "{drug} was prescribed to control {reason}.",
        "{drug} keeps {his} {reason} under control; {drug6} was not needed.",
        "Started {drug} {dose} {frequency} because of {reason}.",
        "After {drug} the {reason} resolved.",
        "Indication for {drug}: {reason}.",
        "{drug} helped with {reason} but caused {event}.",
    ),
    "causes": (
        "{drug} led to {event}.",
        "{event} was thought to be due to {drug}, not {drug6}.",
        "{who} had {event} from {drug}.",
        "{drug} was discontinued when {event} appeared.",
        "{event} after the second dose of {drug}; {his} {reason6} is stable.",
        "{he} stopped {drug} because it gave {event}.",
        "{drug} used for {reason} was followed by {event}.",
        "{drug}-related {event} was noted on {date}.",
    ),
    "none": (
        "{drug6} was refilled; {his} {reason7} is stable.",
        "Takes {drug6}. There is no {event7} today.",
        "{drug6} did not cause {event7}.",
        "No {event7} was seen with {drug6}.",
        "{reason7} was diagnosed long before {drug6} was started.",
        "{his} {relative} had {reason7}. {he} takes {drug6} {dose6}.",
        "{reason7} will be managed without {drug6}.",
    ),
}

Link = Callable[[str, str, str, str], str | None]
"""(template, stratum, head slot, tail slot) → the relation of the two, or None."""


def _dose_link(_template: str, _stratum: str, drug: str, dose: str) -> str | None:
    return "dose" if number_of(drug) == number_of(dose) else None


def _outcome_link(template: str, stratum: str, imaging: str, disease: str) -> str | None:
    if number_of(imaging) != number_of(disease):
        return None
    return _SECOND_OUTCOME[template] if number_of(imaging) else stratum


def _purpose_link(_template: str, _stratum: str, drug: str, problem: str) -> str | None:
    if number_of(drug) != number_of(problem):
        return None
    return "treats" if problem.startswith("reason") else "causes"


def _linker(
    templates: Mapping[str, tuple[str, ...]], types: Mapping[str, str], head: str, tails: tuple[str, ...], link: Link
) -> Write:
    def write(writer: Writer, stratum: str) -> Record:
        template = writer.pick(templates[stratum])
        opening = writer.fill(writer.pick(OPENINGS)) if writer.chance(0.4) else Passage("")
        text = opening + writer.fill(template)
        found = text.marked(types)
        pairs = [
            (link(template, stratum, head_slot, tail_slot), one, other)
            for head_slot, ones in found.items()
            for tail_slot, others in found.items()
            if head_slot.startswith(head) and tail_slot.startswith(tails)
            for one in ones
            for other in others
        ]
        linked = [(label, one, other) for label, one, other in pairs if label is not None]
        relations = tuple(Relation(label, one, other, f"R{n}") for n, (label, one, other) in enumerate(linked, 1))
        return Record(id="", text=text.text, entities=text.entities(types), relations=relations)

    return write


def _options(head: str, tail: str) -> dict[str, object]:
    return {"entities": "given", "scope": "document", "arguments": [[head, tail]]}


RECIPES = (
    Recipe(
        "sample-doses", "source", "relation", "Which dose belongs to which drug.",
        _linker(_DOSES, {"drug": "Drug", "dose": "Dose"}, "drug", ("dose",), _dose_link), ("one", "two"),
        {"dose": "the drug is taken at this dose"}, _options("Drug", "Dose"),
    ),
    Recipe(
        "sample-outcomes", "source", "relation", "What a test says about a disease.",
        _linker(_OUTCOMES, {"imaging": "Test", "disease": "Disease"}, "imaging", ("disease",), _outcome_link),
        ("shows", "excludes", "seeks"),
        {
            "shows": "the test shows the disease", "excludes": "the test speaks against the disease",
            "seeks": "the test is done to look for the disease",
        },
        _options("Test", "Disease"),
    ),
    Recipe(
        "sample-purposes", "target", "relation", "Whether a drug treats or causes a problem, or neither.",
        _linker(
            _PURPOSES, {"drug": "Drug", "reason": "Problem", "event": "Problem"}, "drug", ("reason", "event"),
            _purpose_link,
        ),
        ("treats", "causes", "none"),
        {"treats": "the drug is given for the problem", "causes": "the problem is an effect of the drug"},
        _options("Drug", "Problem"),
    ),
)  # fmt: skip
