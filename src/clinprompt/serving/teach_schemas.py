"""What the page sends to teach a task, and what it is told while the task is learned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from clinprompt.serving.schemas import RequestBody, Span

Kind = Literal["entities", "relations", "labels", "answer", "summary"]
State = Literal["learning", "scoring", "done", "failed", "cancelled"]
# A label is written in answers, where ; : | and line breaks separate.
Label = Annotated[str, StringConstraints(max_length=60, strip_whitespace=True, pattern=r"^[^\n;:|]+$")]
Labels = dict[Label, Annotated[str, StringConstraints(max_length=200)]]
Place = Annotated[int, Field(ge=0)]


class Mark(RequestBody):
    """An entity marked in a note; several spans make it discontinuous."""

    type: Label
    spans: list[Span] = Field(min_length=1, max_length=16, description="[start, end), in characters")


class MarkedRelation(RequestBody):
    """A relation between two entities of a note, named by their places in its list of entities."""

    type: Label
    head: Place
    tail: Place


class TaughtNote(RequestBody):
    """A note with what is true of it: `entities` and `relations` (none is an answer too), one `label`, or the `wanted`
    answer or summary."""

    text: str = Field(min_length=1)
    entities: list[Mark] = Field(default=[], max_length=500)
    relations: list[MarkedRelation] = Field(default=[], max_length=500)
    label: Label | None = None
    wanted: Annotated[str, StringConstraints(max_length=4_000, strip_whitespace=True)] = ""


class TeachRequest(RequestBody):
    """A task and the notes it is learned from."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$", description="the new task is served under it")
    kind: Kind
    labels: Labels = Field(
        default={}, max_length=24, description="label: what it means, in a few words; of relations: types of entities"
    )
    relations: Labels = Field(default={}, max_length=24, description="relations: name: what it means")
    question: str = Field(default="", max_length=300, description="labels, answer: what is asked of each note")
    notes: list[TaughtNote] = Field(min_length=1)
    steps: int | None = Field(default=None, ge=1, description="of training; default: the server's")
    score: bool = Field(default=True, description="also learn without each note in turn, and score it on that note")


class TaughtScore(BaseModel):
    """What was scored on notes that were left out, with its 95 % interval over notes."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    folds: int


class Lesson(BaseModel):
    """A task that is being learned. Nothing of the notes is in it."""

    id: str
    name: str
    state: State
    notes: int
    method: str
    step: int = 0
    steps: int
    first: int = Field(default=0, description="the step that `losses` begins with")
    losses: list[float] = Field(default=[], description="mean training loss per answer token, step by step")
    seconds: float = 0.0
    score: TaughtScore | None = None
    bytes: int | None = None
    reason: str | None = Field(default=None, description="why it failed, or why there is no score")


class Teaching(BaseModel):
    """Whether this server learns tasks, and within which limits."""

    allowed: bool
    reason: str | None = None
    method: str = Field(default="", description="mpt: from a metaprompt; pt: prompt tuning")
    notes: int
    characters: int = Field(description="of one note")
    steps: int = Field(description="when none are asked for")
    most_steps: int
    going: str | None = Field(default=None, description="id of the lesson that is under way")
