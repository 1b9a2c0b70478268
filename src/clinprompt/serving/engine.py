"""What the server asks of an engine: hold tasks, generate answers, score closed choices.

An engine knows prompts and tokens and nothing of HTTP. Records become questions and outputs become predictions in
`clinprompt.serving.predicting`, the same way for every engine, so an engine has two verbs only: `generate` and `score`.
A question carries the task it is asked under, not a name: a task that is replaced or removed while questions are under
way is answered to the end as it was when they were asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from clinprompt.errors import ClinpromptError
from clinprompt.evaluation.predict import DEFAULT_ANSWER_LIMIT
from clinprompt.prompts.artifact import TaskPrompt
from clinprompt.prompts.multitask import TaskOfSeveral
from clinprompt.tasks.codec import Codec
from clinprompt.tasks.definition import TaskDefinition

Finish = Literal["stop", "length"]
T = TypeVar("T")


class EngineBusy(ClinpromptError):
    """The queue is full; the same question may be asked again in `retry_after` seconds."""

    def __init__(self, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__("the queue is full; ask again shortly.")


class EngineClosed(ClinpromptError):
    """The engine takes no more questions, or ended before it could answer one."""


class EngineFailed(ClinpromptError):
    """A defect or a shortage (memory) while a question was answered; others may have been spared."""


class UnknownTask(ClinpromptError):
    """No task of this name is loaded."""


@dataclass(frozen=True, eq=False)
class ServedTask:
    """A task as it is served under `name` (the task file's stem), which need not be the name in its card.

    `codec` renders its records for this engine's tokenizer and context. Compared by identity: a task that was loaded
    again is another one.
    """

    name: str
    file: TaskPrompt
    codec: Codec

    @property
    def definition(self) -> TaskDefinition:
        return self.file.task

    @property
    def limit(self) -> int:
        """Most tokens of an answer."""
        return self.file.card.answer_limit[0] if self.file.card.answer_limit else DEFAULT_ANSWER_LIMIT

    @property
    def digest(self) -> str:
        """Identity of the values of its file; of a part of an adapter, the whole adapter's."""
        if isinstance(self.file, TaskOfSeveral) and self.file.whole is not None:
            return self.file.whole.card.digest
        return self.file.card.digest

    @property
    def positions(self) -> int:
        """Length of its soft prompt; 0 for an adapter."""
        return 0 if self.file.is_adapter else len(self.file.prompt)

    @property
    def learned(self) -> str:
        """What its file holds, in words."""
        return self.file.card.method if self.file.is_adapter else f"prompt of {self.positions}"


class Constraint(Protocol):
    """Which answers may be written; asked token by token, most likely token first."""

    def accepts(self, text: str) -> bool:
        """Whether some allowed answer begins with `text` (the whole answer so far, leading space removed)."""
        ...

    def complete(self, text: str) -> bool:
        """Whether `text` is an allowed answer."""
        ...

    def grammar(self) -> str:
        """The allowed answers in EBNF, for engines that are guided by a grammar."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen: greedily at temperature 0, else drawn from the top_p part of the tempered distribution."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One thing to ask. `source` is the text behind the prompt, as a codec wrote it; `task` None: no prompt.

    `choices` (for `score`): the answers to compare. `limit` (for `generate`): most new tokens. `stop`: texts that end
    an answer and are not part of it. An engine that cannot honour `constraint` ignores it and says so in
    `Engine.constrains`.
    """

    task: ServedTask | None
    source: str
    choices: tuple[str, ...] = ()
    limit: int = DEFAULT_ANSWER_LIMIT
    constraint: Constraint | None = None
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A generated token: the text it adds (may be empty until a character is whole) and its log-probability.

    The last piece of an answer has `finish` set, with text and log-probability of what ended it (EOS: no text).
    """

    text: str
    logprob: float
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A whole answer: `text` as the offline decoder gives it (white space at its ends removed), and its tokens.

    The texts of `pieces` joined are the answer before its ends were trimmed.
    """

    text: str
    pieces: tuple[Piece, ...]

    @property
    def finish(self) -> Finish:
        return self.pieces[-1].finish or "length"


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine has in hand: questions being answered, questions waiting, and the most that may wait; and what it
    has done so far: tokens read (prompts not counted), tokens written, forward passes."""

    running: int
    waiting: int
    capacity: int
    tokens_read: int = 0
    tokens_written: int = 0
    passes: int = 0


class Desk:
    """One thread for a tokenizer: rendering, parsing and counting go there, because tokenizers are not to be used by
    two threads at once and the event loop is not to wait for them."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clinprompt-desk")

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class Engine(Protocol):
    """Many tasks on one frozen backbone. All methods are called from one event loop.

    Cancelling the asyncio task that awaits `answer` or `score`, or closing the generator of `generate`, frees the
    question's slot.
    """

    @property
    def model(self) -> str:
        """Name of the backbone, under which it can be asked without a task."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the backbone, as in the cards of its task files."""
        ...

    @property
    def context(self) -> int:
        """Most tokens of prompt, source and answer together."""
        ...

    @property
    def desk(self) -> Desk:
        """Where its tasks' codecs and its tokenizer are used."""
        ...

    @property
    def constrains(self) -> bool:
        """Whether constraints of questions are honoured."""
        ...

    def tasks(self) -> Mapping[str, ServedTask]:
        """The tasks by served name, as they are now."""
        ...

    async def add(self, name: str, file: TaskPrompt) -> ServedTask:
        """Serve a task file under a name, replacing one of the same name; questions under way are not disturbed.

        Raises BackboneError if it was made for another backbone, TaskError if it leaves no room for text.
        """
        ...

    async def remove(self, name: str) -> None:
        """Stop serving a task; questions under way are answered. Raises UnknownTask."""
        ...

    def length(self, text: str) -> int:
        """Tokens of a text; to be called at the desk."""
        ...

    async def answer(self, question: Question) -> Generated:
        """The whole answer at once. Raises EngineBusy, EngineClosed, TaskError for a source that does not fit."""
        ...

    def generate(self, question: Question) -> AsyncGenerator[Piece, None]:
        """The answer token by token; raises as `answer` does."""
        ...

    async def score(self, question: Question) -> tuple[float, ...]:
        """Mean log-likelihood per token (end of answer included) of every choice."""
        ...

    def load(self) -> Load:
        """How busy it is."""
        ...

    async def close(self) -> None:
        """Answer what was accepted, refuse the rest, and let go of everything."""
        ...
