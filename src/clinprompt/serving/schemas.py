"""What requests and answers look like."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints

Identifier = Annotated[str, StringConstraints(max_length=200)]


class RequestBody(BaseModel):
    """A part of a request: what the API's description does not allow is refused ("yes" and 0 are no booleans), and an
    error never quotes what was sent."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


# A pair of places in a text. JSON knows only arrays, which a strict tuple would refuse; the numbers in it stay strict.
Span = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], Strict(False)]


class GivenEntity(RequestBody):
    """An entity that is given (relation tasks)."""

    id: Identifier
    type: Identifier
    spans: list[Span] = Field(min_length=1, max_length=32, description="[start, end), in characters")
    concepts: list[Identifier] = Field(default=[], max_length=32)


class Document(RequestBody):
    """One record: `text` and what the task asks for beside it, as in the lines that `clinprompt predict` reads."""

    id: Identifier | None = Field(default=None, description="comes back with the answer; default: the number")
    text: str = ""
    hypothesis: str | None = Field(default=None, description="nli: what may follow from `text`")
    question: str | None = Field(default=None, description="qa; summarization: what part is wanted")
    options: list[str] | dict[str, str] | None = Field(
        default=None, description="qa: the options, as a list (keys A, B, …) or an object"
    )
    entities: list[GivenEntity] = Field(default=[], max_length=2_000, description="relation: the entities to relate")


class PredictRequest(RequestBody):
    """Documents to be answered, each by every task named in the address."""

    documents: list[Document | str] = Field(min_length=1, examples=[["She has gout and reports a mild headache."]])
    constrained: bool = Field(default=False, description="entities are copied from the text and never made up")


class FoundEntity(BaseModel):
    id: str
    type: str
    spans: list[tuple[int, int]] = Field(description="[start, end) in characters of `text`")
    text: str
    confidence: float | None = Field(default=None, description="geometric mean of its tokens' probabilities")


class FoundRelation(BaseModel):
    type: str
    head: str
    tail: str
    confidence: float | None = None


class Ungrounded(BaseModel):
    """Something the model named that is not in the text."""

    type: str
    text: str
    confidence: float | None = None


class TaskAnswer(BaseModel):
    """The answer of one task about one document; only the fields of the task's type are there."""

    id: str
    task: str
    entities: list[FoundEntity] | None = None
    relations: list[FoundRelation] | None = None
    ungrounded: list[Ungrounded] | None = None
    label: str | None = None
    answer: str | None = None
    summary: str | None = None
    confidence: float | None = Field(default=None, description="of label, option or text")
    probabilities: dict[str, float] | None = None
    malformed: list[str] | None = Field(default=None, description="parts of the answer that follow no format")
    omitted_characters: int | None = None


class Usage(BaseModel):
    """questions: windows, pairs and choices that the documents came to; tokens: written by the model."""

    questions: int
    tokens: int


class PredictResponse(BaseModel):
    """Answers in the order of the documents, and for each of the tasks in the address."""

    request: str
    model: str
    answers: list[TaskAnswer]
    usage: Usage


class TaskSummary(BaseModel):
    name: str
    task: str = Field(description="the name in its card")
    type: str
    labels: dict[str, str]
    method: str = Field(description="how it was learned; empty where the card does not say")
    prompt_tokens: int = Field(description="vectors of its soft prompt; 0 for an adapter")
    digest: str


class NotServed(BaseModel):
    name: str
    reason: str


class TaskList(BaseModel):
    model: str
    fingerprint: str
    tasks: list[TaskSummary]
    refused: list[NotServed]


class TaskCard(TaskSummary):
    """A task with the card of its file: data it saw, scores, settings."""

    card: dict[str, Any]
    parameters: int = Field(description="numbers that it computes with; those of a multi-task adapter are shared")
    file: str = Field(description="name of the file it is served from; a multi-task adapter's file holds several tasks")
    bytes: int = Field(description="of that file")


class TaskCards(BaseModel):
    """The tasks of a multi-task adapter that was put."""

    tasks: list[TaskCard]
