"""Named entities: drugs, problems, body parts, tests with values (sources); adverse events and procedures (target)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinprompt.corpora.sample.task import Recipe, Write
from clinprompt.corpora.sample.writer import Passage, Writer
from clinprompt.records import Record

OPENINGS = (
    "{age}-year-old {man} seen for {visit}.",
    "A {age}-year-old {man} comes to {visit}.",
    "{he} works as a {job}.",
    "Seen on {date}.",
    "The patient lives with {his} {relative}.",
    "Vital signs are stable.",
    "The plan was discussed with the family.",
    "Follow-up in {span}.",
    "Records from {date} were reviewed.",
    "{he} does not smoke.",
)

_DRUGS = (
    "Takes {drug} {dose} {frequency}.",
    "Current medications: {drug} {dose} {frequency}, {drug2} {dose2} {frequency2}.",
    "Medications include {drug}, {drug2} and {drug3}.",
    "{he} was started on {drug} {dose} {frequency} for {reason}.",
    "{drug} was stopped {ago}.",
    "Increase {drug} to {dose} {frequency} and continue {drug2}.",
    "Discharged on {drug} and {drug2}.",
    "{drug} was changed to {drug2} because of {event}.",
    "Allergic to {drug}.",
    "{who} received {drug} {dose} on {date}.",
    "{his} {reason} is well controlled on {drug}.",
    "Refill {drug} {dose}.",
    "{who} ran out of {drug} {ago} and has felt worse since.",
    "Treated with {drug} without relief, then {drug2}.",
    "No response to {drug}; will try {drug2} {dose2} {frequency2}.",
    "Given {drug} in the emergency department.",
    "{who} admits to skipping {his} {drug}.",
    "Hold {drug} before surgery.",
    "Home meds: {drug} {dose}, {drug2} {dose2}, {drug3} {dose3}.",
    "{reason} was treated with a course of {drug}.",
)
_NO_DRUGS = (
    "{he} takes no medications.",
    "Denies {symptom} and {symptom2}.",
    "History of {disease}.",
    "No known drug allergies.",
    "{he} prefers to try diet and exercise first.",
    "Physical therapy was recommended for {symptom}.",
    "{procedure} was done {ago}.",
    "{test} was {value}.",
)

_PROBLEMS = (
    "{age}-year-old {man} with {disease} presents with {symptom}.",
    "{who} reports {symptom} for {span}.",
    "Complains of {symptom} and {symptom2}.",
    "History of {disease} and {disease2}.",
    "{disease} was diagnosed in {year}.",
    "{symptom} started {ago} and is getting worse.",
    "Denies {symptom} but has had {symptom2}.",
    "Past medical history: {disease}, {disease2}, {disease3}.",
    "{symptom}, {symptom2} and {severity} {symptom3} since last week.",
    "Likely {disease}; less likely {disease2}.",
    "Family history of {disease}.",
    "{who} woke up with {symptom}.",
    "{disease} is stable.",
    "Admitted for {disease}.",
    "{severity} {symptom} after meals, no {symptom2}.",
    "{his} {relative} had {disease}.",
    "Work-up for {symptom} showed {disease}.",
    "Referred because of {symptom} and suspected {disease}.",
    "{disease} complicated by {disease2}.",
    "{symptom} improved with rest.",
)
_NO_PROBLEMS = (
    "Takes {drug} {dose} {frequency}.",
    "{procedure} was scheduled for {date}.",
    "The patient feels well.",
    "{test} was {normal}.",
    "Exam of the {limb} was normal.",
    "{he} sleeps well and eats a balanced diet.",
    "Continue {drug} {dose}.",
    "No complaints today.",
)

_ANATOMY = (
    "There is a {lesion} on the {limb}.",
    "Pain in the {limb} for {span}.",
    "Tenderness over the {limb} and the {limb2}.",
    "Range of motion of the {limb} is limited.",
    "X-ray of the {limb} showed no fracture.",
    "{who} fell on {his} {limb} {ago}.",
    "The {organ} is enlarged.",
    "The {organ} and the {organ2} are normal.",
    "Ultrasound showed a {change} in the {organ}.",
    "Biopsy of the {organ} was taken on {date}.",
    "{change} of the {organ} with spread to the {organ2}.",
    "A {lesion} near the {limb} was removed.",
    "Swelling of the {limb} after a fall, the {limb2} is fine.",
    "CT shows {change} in the {organ} but not in the {organ2}.",
    "Numbness from the {limb} to the {limb2}.",
    "Surgery on the {organ} in {year}.",
    "No {change} of the {organ}.",
    "Injury to the {limb}; the {organ} was spared.",
    "Injection into the {limb} gave relief.",
    "MRI: {change} along the {organ}.",
)
_NO_ANATOMY = (
    "Takes {drug} {dose} {frequency}.",
    "{who} reports fatigue and dizziness.",
    "{test} was {value}.",
    "The patient feels well.",
    "History of hypertension and asthma.",
    "Physical examination was unremarkable.",
)

_LABS = (
    "{test} was {value}.",
    "Labs: {test} {value}, {test2} {value2}.",
    "{test} {value}, {test2} {value2}, {test3} {value3}.",
    "{test} fell from {high} to {low}.",
    "{test} of {value} on {date}.",
    "Repeat {test} is {value}; last time it was {normal}.",
    "On admission {test} was {high} and {test2} was {value2}.",
    "Laboratory results were notable for a {test} of {value}.",
    "{test} elevated at {high}, {test2} normal at {normal2}.",
    "Today's {test}: {value}.",
    "Started on {drug} {dose} because {test} was {high}.",
    "{test} low ({low}).",
    "With treatment the {test} came down to {normal}.",
    "Check {test} again in {span}.",
    "{test} is pending; {test2} {value2}.",
    "Outside records show {test} {value} in {year}.",
)
_NO_LABS = (
    "Takes {drug} {dose} {frequency}.",
    "Blood was drawn on {date}.",
    "{who} reports {symptom} for {span}.",
    "{procedure} was done {ago}.",
    "History of {disease}.",
    "Results are not back yet.",
)

_HARMS = (
    "{who} developed {event} after taking {drug}.",
    "{drug} was stopped because of {event}.",
    "{event} while on {drug}, resolved after the dose was lowered.",
    "Could not tolerate {drug} due to {event}.",
    "{drug} given for {reason} caused {event}.",
    "Two weeks into {drug} therapy {he} noticed {event}.",
    "{event} attributed to {drug} {dose}.",
    "{who} was hospitalized with {drug}-induced {event}.",
    "A reaction to {drug} with {event} was recorded in {year}.",
    "Side effects of {drug} included {event}.",
    "Suspected {event} secondary to {drug} used for {reason}.",
    "{event} began the day after the first dose of {drug}.",
)
_PROCEDURES = (
    "{who} underwent {procedure} {ago}.",
    "Status post {procedure}.",
    "{procedure} was performed on {date} without complications.",
    "Scheduled for {procedure} next month.",
    "Surgical history: {procedure} in {year}, {procedure2}.",
    "Recovering well from {procedure}.",
    "{he} declined {procedure}.",
    "{disease} was treated with {procedure}.",
)
_HARMLESS = (
    "{drug} {dose} {frequency} for {reason}.",
    "{who} tolerates {drug} well.",
    "{reason} is controlled on {drug}.",
    "No side effects from {drug}.",
    "Presented with {symptom} from {disease}.",
    "Continue {drug}; {test} is {normal}.",
)


def passage(writer: Writer, templates: Sequence[str], distractors: Sequence[str], *, empty: bool) -> Passage:
    """One or two sentences with what is looked for (none when `empty`), perhaps an opening and a distractor."""
    wanted = [] if empty else [writer.pick(templates)]
    if not empty and writer.chance(0.35):
        wanted.append(writer.pick([t for t in templates if t not in wanted]))
    others = [writer.pick(distractors)] if empty or writer.chance(0.4) else []
    body = wanted + others
    writer.rng.shuffle(body)
    if writer.chance(0.4):
        body.insert(0, writer.pick(OPENINGS))
    # Slots are numbered per sentence, so each sentence is filled on its own.
    text = Passage("")
    for template in body:
        text += writer.fill(template)
    return text


def _finder(templates: Sequence[str], distractors: Sequence[str], types: Mapping[str, str]) -> Write:
    def write(writer: Writer, stratum: str) -> Record:
        text = passage(writer, templates, distractors, empty=stratum == "none")
        return Record(id="", text=text.text, entities=text.entities(types))

    return write


_LEVELS = dict.fromkeys(("value", "low", "normal", "high"), "Value")
_SOME = ("some",) * 7 + ("none",)

RECIPES = (
    Recipe(
        "sample-drugs", "source", "ner", "Drugs in clinic notes.",
        _finder(_DRUGS, _NO_DRUGS, {"drug": "Drug"}), _SOME,
        {"Drug": "name of a medication"},
    ),
    Recipe(
        "sample-problems", "source", "ner", "Symptoms and diseases in clinic notes, also those denied.",
        _finder(_PROBLEMS, _NO_PROBLEMS, {"symptom": "Symptom", "disease": "Disease"}), _SOME,
        {"Symptom": "complaint of the patient", "Disease": "named disease"},
    ),
    Recipe(
        "sample-body-parts", "source", "ner", "Body parts and organs.",
        _finder(_ANATOMY, _NO_ANATOMY, {"limb": "Body part", "organ": "Body part"}), _SOME,
        {"Body part": "part of the body or organ"},
    ),
    Recipe(
        "sample-tests", "source", "ner", "Laboratory tests and their values.",
        _finder(_LABS, _NO_LABS, {"test": "Test", **_LEVELS}), _SOME,
        {"Test": "laboratory test or vital sign", "Value": "its result with the unit"},
    ),
    Recipe(
        "sample-events", "target", "ner", "Adverse events of drugs (not the reasons for them), and procedures.",
        _finder((*_HARMS, *_PROCEDURES), _HARMLESS, {"event": "Adverse event", "procedure": "Procedure"}), _SOME,
        {"Adverse event": "harm caused by a drug", "Procedure": "operation or other intervention"},
    ),
)  # fmt: skip
