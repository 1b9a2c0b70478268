"""Summaries: a note in one line, the complaint of a dialogue (sources), a radiology impression (target)."""

from __future__ import annotations

from clinprompt.corpora.sample import radiology
from clinprompt.corpora.sample.task import Recipe
from clinprompt.corpora.sample.writer import Passage, Writer
from clinprompt.records import Record

_WHO = (
    "A {age}-year-old {man} with a history of {disease6} presents with {symptom} and {symptom2} for {span}.",
    "{age}-year-old {man} with {disease6} and {span} of {symptom}. Denies {symptom2}.",
    "{age}-year-old {man}, {job}, complains of {severity} {symptom} that began {ago}. Known {disease6}.",
    "This {age}-year-old {man} was admitted with {symptom}. Past history of {disease6}. No {symptom2}.",
)
_HOW = (
    "{imaging} showed {disease}.",
    "{imaging} confirmed {disease}.",
    "Findings on {imaging} were consistent with {disease}.",
    "{test} was {value}. The diagnosis of {disease} was made.",
    "Work-up with {imaging} and {imaging2} led to the diagnosis of {disease}.",
)
_THEN = {
    "drug": (
        "{he} was started on {drug} {dose} {frequency}.",
        "Treated with {drug}.",
        "{drug} was given and {he} improved.",
        "{he} was discharged on {drug}.",
    ),
    "procedure": (
        "{he} underwent {procedure} on {date}.",
        "{procedure} was performed.",
        "{procedure} was done without complications.",
        "The patient agreed to {procedure}.",
    ),
}


def _one_line(writer: Writer, stratum: str) -> Record:
    """History, diagnosis and treatment; the summary is the patient, the diagnosis and the treatment."""
    passages = [writer.fill(writer.pick(bank)) for bank in (_WHO, _HOW, _THEN[stratum])]
    words = {slot.name: slot.word for passage in passages for slot in passage.slots}
    text = Passage("")
    for passage in passages:
        text += passage
    summary = writer.fill(
        "{disease} in a {age}-year-old {man} with {disease6}, treated with {treatment}.",
        disease=words["disease"],
        disease6=words["disease6"],
        treatment=words[stratum],
    )
    return Record(id="", text=text.text, summary=summary.text)


_GREETINGS = (
    "What brings you in today?", "How can I help you?", "What seems to be the problem?", "Tell me what happened.",
    "What is bothering you?",
)  # fmt: skip
_COMPLAINTS = (
    "I have had {symptom} for {span}.",
    "It's the {symptom}, it has been going on for {span}.",
    "For {span} now I keep getting {symptom}.",
    "Well, I noticed {symptom} about {span} back.",
    "My {relative} told me to come. I have {symptom}, {span} already.",
)
_CHECKS = ("Any {symptom2}?", "Do you have {symptom2}?", "What about {symptom2}?", "And {symptom2}?")
_YES = ("Yes, that too.", "Yes, a little.", "Yes, since yesterday.", "I do, yes.")
_NO = ("No.", "No, nothing like that.", "Not at all.", "No, I don't think so.")
_ASIDES = (
    "I work as a {job}, so it is hard to rest.", "I am {age}, you know.", "I could not sleep last night.",
    "I took {drug6} but it did not help.", "It worries my {relative}.",
)  # fmt: skip


def _complaint(writer: Writer, stratum: str) -> Record:
    """Three or four turns; the summary is the complaint, how long, and what was affirmed or denied."""
    said = writer.fill(writer.pick(_COMPLAINTS))
    asked = writer.fill(writer.pick(_CHECKS))
    words = {slot.name: slot.word for passage in (said, asked) for slot in passage.slots}
    aside = f" {writer.fill(writer.pick(_ASIDES)).text}" if writer.chance(0.5) else ""
    text = (
        f"Doctor: {writer.pick(_GREETINGS)} Patient: {said.text}{aside} "
        f"Doctor: {asked.text} Patient: {writer.pick(_YES if stratum == 'with' else _NO)}"
    )
    ending = "and {symptom2}." if stratum == "with" else "without {symptom2}."
    summary = writer.fill("{symptom} for {span} " + ending, **{k: words[k] for k in ("symptom", "span", "symptom2")})
    return Record(id="", text=text, summary=summary.text)


def _impression(writer: Writer, stratum: str) -> Record:
    """Findings among normal sentences; the impression lists what was found, or says that nothing was."""
    examination = radiology.examination(writer)
    count = {"clear": 0, "one": 1, "two": 2}[stratum]
    findings = radiology.findings(writer, examination, count + 2 + writer.chance(0.4))
    sentences = [(radiology.shown(writer, finding), finding.concluded) for finding in findings[:count]]
    sentences += [(finding.normal, "") for finding in findings[count:]]
    writer.rng.shuffle(sentences)
    comparison = writer.fill(" Comparison: {date}.").text if writer.chance(0.5) else ""
    text = f"{writer.pick(examination.names)}.{comparison} {' '.join(sentence for sentence, _ in sentences)}"
    concluded = [f"{end[:1].upper()}{end[1:]}." for _, end in sentences if end]
    return Record(id="", text=text, summary=" ".join(concluded) or examination.clear)


RECIPES = (
    Recipe(
        "sample-one-line", "source", "summarization", "A short note in one line.", _one_line, ("drug", "procedure")
    ),
    Recipe(
        "sample-complaint", "source", "summarization", "The complaint from a short dialogue.", _complaint,
        ("with", "without"),
    ),
    Recipe(
        "sample-impression", "target", "summarization", "The impression from radiology findings.", _impression,
        ("clear", "one", "one", "two"),
    ),
)  # fmt: skip
