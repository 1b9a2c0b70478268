"""Requests and answers of OpenAI's API, as far as they mean something here; what would change an answer is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from clinprompt.serving.schemas import RequestBody

Finish = Literal["stop", "length"]
Stops = str | Annotated[list[str], Field(max_length=8)]


class _Request(RequestBody):
    model: str = Field(description="a task's name, or the backbone's (no prompt)")
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, description="0 (the default here): greedy")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: Stops | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = Field(default=None, description="accepted for compatibility; neither kept nor logged")

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class StreamOptions(RequestBody):
    include_usage: bool = False


class CompletionRequest(_Request):
    """Text that the model continues, as it stands, behind the task's prompt."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    max_tokens: int | None = Field(default=None, ge=1, description="default: the task's own limit")
    logprobs: int | None = Field(default=None, ge=0, le=1, description="log-probabilities of the written tokens")


class TextPart(RequestBody):
    type: Literal["text"]
    text: str


class Message(RequestBody):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(RequestBody):
    type: Literal["text", "json_object"]


class ChatRequest(_Request):
    """A conversation. A task reads its last user message: a text, or a document as a JSON object."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    response_format: ResponseFormat | None = Field(
        default=None, description="json_object: the structured answer, with offsets and confidences"
    )


class TokenUsage(BaseModel):
    """prompt_tokens: of the texts, soft prompts not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: dict[str, Any] | None = None
    finish_reason: Finish | None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class Said(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    index: int = 0
    message: Said
    logprobs: dict[str, Any] | None = None
    finish_reason: Finish


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
