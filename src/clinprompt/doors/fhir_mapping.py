"""Entity types → FHIR resources: the shipped table, and a user's own laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clinprompt.errors import TaskError

SHIPPED = Path(__file__).with_name("fhir_mapping.yaml")
Resource = Literal["Condition", "Observation", "MedicationStatement", "Procedure", "BodyStructure"]
Part = Literal["dosage", "reason"]
TABLES = ("types", "parts", "systems")


class Mapping(BaseModel):
    """What `fhir_mapping.yaml` says; keys of the tables are in the form `plain` gives them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    extension_base: str = Field(pattern=r"^https?://[^\s]+[^\s/]$", description="no slash at the end")
    types: dict[str, Resource | None]
    other: Resource | None
    parts: dict[str, Part | None]
    systems: dict[str, str | None]

    def resource(self, kind: str) -> Resource | None:
        """The resource of an entity type; `other` for one that the table does not name."""
        return self.types.get(plain(kind), self.other)

    def part(self, kind: str) -> Part | None:
        """What a mention of this type is of a medication, None for no part of one."""
        return self.parts.get(plain(kind))

    def coding(self, concept: str) -> dict[str, str] | None:
        """A concept identifier as FHIR Coding, None where its code system is not known."""
        prefix, colon, code = concept.partition(":")
        system = self.systems.get(plain(prefix)) if colon else self.systems.get("")
        code = code if colon else concept
        return {"system": system, "code": code.strip()} if system and code.strip() else None


def plain(name: str) -> str:
    """A name as the tables are compared: lower case, and one space for any run of space, dash and underscore."""
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


def load_mapping(path: Path | None = None) -> Mapping:
    """The shipped mapping with the entries of the file at `path` laid over it. Raises TaskError with file and key."""
    merged = _read(SHIPPED)
    for key, value in (_read(path) if path else {}).items():
        merged[key] = {**merged[key], **value} if key in TABLES and isinstance(value, dict) else value
    try:
        return Mapping.model_validate(merged)
    except ValidationError as error:
        found = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise TaskError(f"{path or SHIPPED}: {found}. The shipped {SHIPPED.name} shows what is known.") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(
            f"{path}: cannot be read ({type(error).__name__}). Check the path; it is a UTF-8 file."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise TaskError(f"{path}{f':{mark.line + 1}' if mark else ''}: not valid YAML.") from None
    if not isinstance(raw, dict):
        raise TaskError(f"{path}: a mapping with some of: {', '.join(Mapping.model_fields)}, is needed.")
    return {key: _plain_keys(value) if key in TABLES else value for key, value in raw.items()}


def _plain_keys(table: Any) -> Any:
    return {plain(str(key)): value for key, value in table.items()} if isinstance(table, dict) else table
