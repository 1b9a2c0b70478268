"""A task as data: one YAML file (or one catalog entry) that says what is asked of a text.

The fixed keys are `name`, `type`, `labels`, `format`, `files`, `columns`, `instruction`, `metrics`; unknown keys are
refused, so a misspelt option is an error and never a silent default.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clinprompt.errors import TaskError

TaskType = Literal["ner", "relation", "qa", "nli", "summarization"]
TASK_TYPES: tuple[TaskType, ...] = ("ner", "relation", "qa", "nli", "summarization")
SPLITS = ("train", "validation", "test")


class TaskDefinition(BaseModel):
    """What a task is: enough to render any record as text and to read an answer back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, dot, dash, underscore")
    type: TaskType
    labels: dict[str, str] = Field(
        default_factory=dict, description="label: one-line description; the order here is the order in the instruction"
    )
    description: str = ""
    instruction: str | None = Field(default=None, description="replaces the instruction made from type and labels")
    language: str = "en"
    metrics: tuple[str, ...] = Field(default=(), description="the first one is the headline; empty: the type's default")

    # Corpus (for a user's own task; catalog tasks bring their own readers).
    format: str | None = None
    files: dict[str, str | list[str]] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict, description="record field: column name")
    reader: dict[str, Any] = Field(default_factory=dict, description="further arguments of the reader")
    licence: str = ""

    # Relations.
    entities: Literal["given", "predicted"] = Field(
        default="given", description="given: classify pairs of gold entities; predicted: find entities and relations"
    )
    scope: Literal["sentence", "document"] = Field(
        default="sentence", description="candidate pairs lie in one sentence, or anywhere in the document"
    )
    arguments: tuple[tuple[str, str], ...] = Field(
        default=(), description="allowed (head type, tail type) pairs; empty: any two types"
    )

    directed: bool = Field(
        default=True, description="false: head and tail may change places; each pair is asked once, in text order"
    )

    # Question answering.
    answers: Literal["options", "labels", "free"] | None = Field(
        default=None,
        description="options: one of the record's options; labels: one of `labels` (yes/no/maybe); free: text",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_from_list(cls, value: Any) -> Any:
        """A bare list of labels is accepted, and labels with nothing behind: the descriptions are then empty."""
        if isinstance(value, list | tuple):
            if any(isinstance(label, list | dict) for label in value):
                raise ValueError("a list holds names only; with descriptions write a mapping, `name: description`.")
            return dict.fromkeys(value, "")
        if isinstance(value, dict):
            return {label: "" if description is None else description for label, description in value.items()}
        return value

    @field_validator("reader", mode="after")
    @classmethod
    def _label_names_are_text(cls, value: dict[str, Any]) -> dict[str, Any]:
        """What a file says is text, and so is a label: YAML's numbers and truth values would match nothing."""
        names = value.get("label_names")
        for key, label in names.items() if isinstance(names, dict) else ():
            if not isinstance(key, str):
                raise ValueError(f"`label_names`: {_no_text(key)}")
            if not isinstance(label, str):
                raise ValueError(f"`label_names.{key}`: {_no_text(label)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TaskDefinition:
        if self.type in ("ner", "relation", "nli") and not self.labels:
            raise ValueError(f"a task of type {self.type} needs `labels` (name: one-line description)")
        if self.answers == "labels" and not self.labels:
            raise ValueError("`answers: labels` needs `labels`")
        if self.answers is not None and self.type != "qa":
            raise ValueError("`answers` belongs to tasks of type qa")
        unknown = sorted(set(self.files) - set(SPLITS))
        if unknown:
            raise ValueError(f"`files` has unknown splits {unknown}; the splits are {list(SPLITS)}")
        for label in self.labels:
            if not label.strip() or label != label.strip() or any(c in label for c in "\n;:|"):
                raise ValueError(f"label {label!r} may not be empty, padded, or hold a newline or one of ; : |")
        return self

    @property
    def answer_kind(self) -> Literal["options", "labels", "free"]:
        """How a qa task answers; from `answers`, else labels when there are labels, else the record's options."""
        return self.answers or ("labels" if self.labels else "options")


def load_task(path: Path | str) -> TaskDefinition:
    """Read a task YAML. Raises TaskError naming the file, the key and the cure."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file. Give the path of a task YAML or the id of a catalog task.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise TaskError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path}:{number}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
    if not isinstance(raw, dict):
        raise TaskError(f"{path}: a task file is a mapping with `name`, `type`, `labels`, `format` and `files`.")
    return parse_task(raw, where=str(path))


def parse_task(raw: dict[str, Any], *, where: str = "task") -> TaskDefinition:
    """Validate a mapping as a task. Raises TaskError listing every offending key."""
    try:
        return TaskDefinition.model_validate(raw)
    except ValidationError as error:
        raise TaskError(f"{where}: " + "; ".join(_explain(e) for e in error.errors())) from None


def _no_text(value: Any) -> str:
    """Why a value of a YAML file is no text, and what to write instead."""
    if isinstance(value, bool):
        word = "yes" if value else "no"
        return f'YAML reads an unquoted yes, no, on or off as true or false; quote it: "{word}".'
    if isinstance(value, int | float):
        return f'YAML reads an unquoted {value} as a number; quote it: "{value}".'
    if isinstance(value, date):
        return f'YAML reads an unquoted {value} as a date; quote it: "{value}".'
    kinds = {list: "a list", dict: "a mapping", type(None): "nothing"}
    return f"a text is needed here, not {kinds.get(type(value), 'this')}."


def _explain(error: Any) -> str:
    if error["type"] == "string_type":
        # The key of a mapping is reported as what it was read as, with a mark behind it: neither is in the file.
        place = error["loc"][:-2] if error["loc"][-1] == "[key]" else error["loc"]
        return f"`{'.'.join(map(str, place))}`: {_no_text(error['input'])}"
    key = ".".join(str(part) for part in error["loc"]) or "(task)"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(TaskDefinition.model_fields))
        return f"unknown key `{key}` (known keys: {known})"
    if error["type"] == "missing":
        return f"`{key}` is missing"
    return f"`{key}`: {error['msg'].removeprefix('Value error, ')}"
