"""Question answering: one of the record's options, one of the task's labels, or free text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from clinprompt.errors import TaskError
from clinprompt.records import Record
from clinprompt.tasks import surface
from clinprompt.tasks.choices import choose
from clinprompt.tasks.codec import Example, Output, Prediction
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.room import LEAST_TEXT, Room

OptionForm = Literal["text", "key"]


def gold_answer(record: Record) -> str | None:
    """The gold answer of a qa record: `answer`, or `label` where a reader stored a yes/no/maybe answer there."""
    return record.answer if record.answer is not None else record.label


@dataclass(frozen=True, slots=True)
class QaCodec:
    """A context longer than the budget is shown in windows, each with the whole question and all options.

    Choices: likelihoods are averaged over the windows. Free text: a window that does not hold the gold answer is
    taught ``none`` (if another window holds it), and the answer most windows give is taken, the earliest at a tie. If
    question and options alone exceed the budget, the question loses its beginning and the options line its end (the
    choices themselves stay whole); what is cut is counted as omitted.
    """

    task: TaskDefinition
    room: Room
    option_form: OptionForm = "text"

    def __post_init__(self) -> None:
        if self.option_form not in ("text", "key"):
            raise TaskError(f"task {self.task.name}: option_form is 'text' or 'key', not {self.option_form!r}.")
        self.room.check(surface.source(self._instruction()), self.task.name)

    def _instruction(self) -> str:
        kind = self.task.answer_kind
        labels = f"Choose: {', '.join(self.task.labels)}."
        by_kind = {"options": "Choose the answer.", "labels": labels, "free": "Answer the question."}
        return self.task.instruction or by_kind[kind]

    def _choices(self, record: Record) -> tuple[tuple[str, str], ...]:
        """(answer, written choice) pairs; empty for free text. A repeated option text is told apart by its letter."""
        if self.task.answer_kind == "labels":
            return tuple((label, label) for label in self.task.labels)
        if self.task.answer_kind == "free":
            return ()
        if not record.options:
            raise TaskError(
                f"task {self.task.name}: record {record.id} has no options. Map the option columns, or set `answers`."
            )
        if self.option_form == "key":
            return tuple((key, letter(index)) for index, (key, _) in enumerate(record.options))
        texts = [surface.normalise(text) for _, text in record.options]
        repeated = {text.lower() for text, count in Counter(text.lower() for text in texts).items() if count > 1}
        return tuple(
            (key, f"{text} ({letter(index)})" if text.lower() in repeated else text)
            for index, ((key, _), text) in enumerate(zip(record.options, texts, strict=True))
        )

    def _options_line(self, record: Record) -> str:
        choices = self._choices(record) if self.task.answer_kind == "options" else ()
        if self.option_form == "key":
            texts = [surface.normalise(text) for _, text in record.options]
            return "; ".join(f"{choice}. {text}" for (_, choice), text in zip(choices, texts, strict=False))
        return "; ".join(choice for _, choice in choices)

    def _layout(self, record: Record) -> tuple[Callable[[str], str], int]:
        """How a part of the context becomes a source, and how many characters of question and options are cut."""

        def source(text: str, question: str, options: str) -> str:
            lines = ("Text", text), ("Question", question), ("Options", options)
            return surface.source(self._instruction(), *lines)

        def shorten(text: str, render: Callable[[str], str], keep: str, reserve: int) -> str:
            return self.room.shorten(text, render, keep=keep, reserve=reserve)

        context = min(LEAST_TEXT, self.room.length(record.text)) if record.text.strip() else 0
        all_options, whole_question = self._options_line(record), (record.question or "").strip()
        options = shorten(all_options, lambda o: source("", "", o), "start", context + LEAST_TEXT)
        question = shorten(whole_question, lambda q: source("", q, options), "end", context)
        cut = len(all_options) - len(options) + len(whole_question) - len(question)
        return lambda text: source(text, question, options), cut

    def render(self, record: Record) -> list[Example]:
        choices = self._choices(record)
        source, _ = self._layout(record)
        windows = self.room.windows(record.text, source)
        return [
            Example(
                record.id,
                source(record.text[start:end]),
                self._target(record, choices, record.text[start:end]),
                choices=tuple(choice for _, choice in choices),
                window=(start, end),
            )
            for start, end in windows
        ]

    def _target(self, record: Record, choices: Sequence[tuple[str, str]], shown: str) -> str:
        gold = gold_answer(record)
        if gold is None:
            return ""
        if choices:
            if gold not in dict(choices):
                raise TaskError(f"task {self.task.name}: the answer of record {record.id} is none of its choices.")
            return dict(choices)[gold]
        elsewhere = shown != record.text and gold.lower() in record.text.lower() and gold.lower() not in shown.lower()
        answer = "\\" + gold if gold.strip().lower() == surface.NONE else gold
        return surface.NONE if elsewhere else answer.strip()

    def parse(self, record: Record, examples: Sequence[Example], outputs: Sequence[Output]) -> Prediction:
        _, omitted = self._layout(record)
        choices = self._choices(record)
        if not choices:
            return Prediction(replace(record, answer=_most_given(outputs), label=None), omitted=omitted)
        choice = choose([written for _, written in choices], outputs)
        answers = [answer for answer, _ in choices]
        return Prediction(
            replace(record, answer=answers[choice.index] if choice.index is not None else None, label=None),
            malformed=choice.malformed,
            probabilities=dict(zip(answers, choice.probabilities, strict=False)),
            omitted=omitted,
        )


def letter(index: int) -> str:
    """A, B, … Z, then A1, B1, …"""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _most_given(outputs: Sequence[Output]) -> str | None:
    answers = [output.text.strip() for output in outputs]
    given = [answer for answer in answers if answer and answer.lower() != surface.NONE]
    if not given:
        return None
    best = Counter(given).most_common(1)[0][0]  # insertion order breaks ties
    return best[1:] if best.lower() == "\\" + surface.NONE else best
