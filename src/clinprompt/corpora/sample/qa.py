"""Questions on a note: yes or no, which of its drugs or reasons (sources); social history (target)."""

from __future__ import annotations

from clinprompt.corpora.sample.facts import shuffled, statements
from clinprompt.corpora.sample.task import Recipe
from clinprompt.corpora.sample.writer import Passage, Writer
from clinprompt.records import Record


def _yes_no(writer: Writer, stratum: str) -> Record:
    chosen, sentences = statements(writer, 1 + writer.chance(0.65) + writer.chance(0.3), true=stratum == "yes")
    question = chosen[0].fact.question(writer, chosen[0].word)
    return Record(id="", text=shuffled(writer, sentences), question=question, label=stratum, answer=stratum)


_PAIRS = (
    "{drug} {dose} {frequency} for {reason}.",
    "{drug} was started for {reason}.",
    "{reason} is treated with {drug}.",
    "Takes {drug} because of {reason}.",
    "{his} {reason} is controlled on {drug}.",
    "For {reason} {he} was given {drug}.",
)
_QUESTIONS = {
    "reason": ("Why does the patient take {drug}?", "What is {drug} given for?", "What does {drug} treat?"),
    "drug": ("Which drug is given for {reason}?", "What is taken for {reason}?", "How is {reason} treated?"),
}


def _choice(writer: Writer, stratum: str) -> Record:
    """Two or three drugs with their reasons; the options are all reasons (or drugs) of the note and one more."""
    passages = [writer.fill(template) for template in writer.rng.sample(_PAIRS, 2 + writer.chance(0.4))]
    words = [{slot.name: slot.word for slot in passage.slots} for passage in passages]
    asked = writer.rng.randrange(len(words))
    given = {name: word for name, word in words[asked].items() if name != stratum}
    question = writer.fill(writer.pick(_QUESTIONS[stratum]), **given).text
    options = [pair[stratum] for pair in words] + [writer.term(stratum)]
    right = options[asked]
    writer.rng.shuffle(options)
    keys = "ABCD"
    return Record(
        id="",
        text=shuffled(writer, passages),
        question=question,
        options=tuple(zip(keys, options, strict=False)),
        answer=keys[options.index(right)],
    )


_HABITS = {
    "smoke": {
        "questions": ("Does the patient smoke?", "Is the patient a current smoker?"),
        "yes": (
            "Smokes {packs} a day.", "Current smoker, {packs} daily.", "Active tobacco use for {span}.",
            "{he} has not been able to quit cigarettes.", "Tobacco: {packs} per day.",
        ),
        "no": (
            "Never smoker.", "Quit smoking in {year}.", "Denies tobacco use.", "Former smoker, stopped {ago}.",
            "{he} has never touched a cigarette.",
        ),
    },
    "drink": {
        "questions": ("Does the patient drink alcohol?", "Is there current alcohol use?"),
        "yes": (
            "Drinks {drinks} on weekends.", "Alcohol: {drinks} a night.", "{drinks} with dinner.",
            "Admits to drinking {drinks} daily.", "Occasional alcohol.",
        ),
        "no": (
            "Does not drink alcohol.", "Sober since {year}.", "No alcohol.", "Denies alcohol use.",
            "Stopped drinking {ago}.",
        ),
    },
    "drugs": {
        "questions": ("Does the patient use illicit drugs?", "Is there current drug use?"),
        "yes": (
            "Uses cannabis daily.", "Injects heroin.", "Cocaine use, last {ago}.", "Smokes marijuana on weekends.",
            "Admits to methamphetamine.",
        ),
        "no": ("No illicit drugs.", "Denies drug use.", "Recreational drugs: none.", "Clean since {year}."),
    },
    "work": {
        "questions": ("Does the patient work?", "Is the patient employed?"),
        "yes": (
            "Works as a {job}.", "Full-time {job}.", "Employed as a {job} since {year}.", "Back to work as a {job}.",
        ),
        "no": (
            "Retired in {year}.", "On disability since {year}.", "Lost {his} job {ago}.", "Unemployed for {span}.",
        ),
    },
    "alone": {
        "questions": ("Does the patient live alone?",),
        "yes": ("Lives alone.", "Lives by {himself} in an apartment.", "Has lived on {his} own since {year}."),
        "no": ("Lives with {his} {relative}.", "Shares a house with {his} {relative}.", "Lives in a nursing home."),
    },
    "exercise": {
        "questions": ("Does the patient exercise?",),
        "yes": ("Walks two miles a day.", "Goes to the gym three times a week.", "Swims every morning."),
        "no": ("Does not exercise.", "Sedentary, no regular exercise.", "Stopped exercising {ago}."),
    },
}  # fmt: skip
_PACKS = ("half a pack", "one pack", "two packs", "five cigarettes", "ten cigarettes", "1.5 packs", "a few cigarettes")
_DRINKS = ("two beers", "a glass of wine", "three glasses of wine", "a pint of vodka", "one beer", "a bottle of wine")


def _social(writer: Writer, stratum: str) -> Record:
    """Two or three habits; the one asked after is affirmed, denied or not mentioned."""
    asked, *others = writer.rng.sample(sorted(_HABITS), 3 + writer.chance(0.4))
    told = [(habit, "yes" if writer.chance(0.5) else "no") for habit in others[:-1]]
    told.append((others[-1], writer.pick(("yes", "no"))) if stratum == "unknown" else (asked, stratum))
    sentences = [
        writer.fill(
            writer.pick(_HABITS[habit][answer]),
            packs=writer.pick(_PACKS),
            drinks=writer.pick(_DRINKS),
            himself="herself" if writer.woman else "himself",
        )
        for habit, answer in told
    ]
    text = shuffled(writer, sentences)
    if writer.chance(0.5):
        text = (Passage("Social history:") + Passage(text)).text
    return Record(id="", text=text, question=writer.pick(_HABITS[asked]["questions"]), label=stratum, answer=stratum)


RECIPES = (
    Recipe(
        "sample-yes-no", "source", "qa", "Yes/no questions on a note.", _yes_no, ("yes", "no"),
        {"yes": "the note says so", "no": "the note denies it"}, {"answers": "labels"},
    ),
    Recipe(
        "sample-choices", "source", "qa", "Which drug, or why: choose among the note's own.", _choice,
        ("reason", "drug"), {}, {"answers": "options"},
    ),
    Recipe(
        "sample-social", "target", "qa", "Questions on habits and work.", _social, ("yes", "no", "unknown"),
        {"yes": "the note says so", "no": "the note denies it", "unknown": "the note does not say"},
        {"answers": "labels"},
    ),
)  # fmt: skip
