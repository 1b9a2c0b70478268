"""Copying: what may be said is in the text, and every run of its words may be said letter by letter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clinprompt.serving.constraint import Copied, constraint_for
from clinprompt.tasks import surface
from clinprompt.tasks.codec import Example
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.grounding import Grounder

WORDS = st.lists(st.text("abcö;\\ .-", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=1, max_size=8)


def test_examples() -> None:
    rule = Copied("She has mild headache; no fever.", ("Problem", "Drug"))
    for viable in (
        "",
        "n",
        "none",
        "P",
        "Problem:",
        "Problem: mild head",
        "Problem: headache\\;",
        "Drug: no fever; Pro",
    ):
        assert rule.accepts(viable), viable
    for dead in (
        "x",
        "Problem: ead",
        "Problem: fevers",
        "Fever: no",
        "Problem: fe;",
        " none",
        "Problem:  mild",
        "Drug: \\m",
    ):
        assert not rule.accepts(dead), dead
    assert rule.complete("Problem: fever; Drug: mild headache") and rule.complete("none")
    assert not rule.complete("Problem: feve") and not rule.complete("Problem: fever;") and not rule.complete("")


@given(WORDS, st.data())
def test_every_run_of_words_may_be_written_letter_by_letter(words: list[str], data: st.DataObject) -> None:
    text = surface.normalise(" ".join(words))
    parts = text.split(" ")
    first = data.draw(st.integers(0, len(parts) - 1))
    last = data.draw(st.integers(first, len(parts) - 1))
    mention = " ".join(parts[first : last + 1])
    rule = Copied(text, ())
    written = surface.write_mention([mention], [None])
    if any(part.startswith("\\.") for part in written.split(" ")):
        return  # a literal gap: an escape that the constraint leaves out
    for end in range(len(written) + 1):
        if not written[:end].endswith(" "):
            assert rule.accepts(written[:end])
    assert rule.complete(written)


@given(WORDS, st.text("abcö;\\ .-", max_size=8))
def test_what_is_complete_is_found_in_the_text(words: list[str], said: str) -> None:
    text = surface.normalise(" ".join(words))
    if Copied(text, ()).complete(said):
        assert all(Grounder(text).locate(surface.fragments(item)) for item in surface.items(said))


def test_of_a_task() -> None:
    task = TaskDefinition(name="a", type="ner", labels={"X": ""})
    source = surface.source("Find: X.", ("Text", "two\n words"))
    rule = constraint_for(task, Example("1", source, ""))
    assert isinstance(rule, Copied) and rule.text == "two words" and rule.labels == ()
    other = TaskDefinition(name="a", type="summarization")
    assert constraint_for(other, Example("1", source, "")) is None
