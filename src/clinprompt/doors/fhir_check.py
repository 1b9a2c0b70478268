"""Bundles validated by the package `fhir.resources` (extra: fhir).

The package has models of R4B (4.3.0) but none of R4 (4.0.1). The resources we write have the same elements in both; the
tests also validate them with `fhirclient`, whose models are R4.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from pydantic import ValidationError

from clinprompt.errors import TaskError


def can_validate() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("fhir") is not None and importlib.util.find_spec("fhir.resources") is not None


def validate(bundle: dict[str, Any]) -> None:
    """Raises TaskError that names the elements that are wrong, never their values."""
    from fhir.resources.R4B.bundle import Bundle

    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in problem["loc"]) for problem in error.errors()})
        raise TaskError(f"not a valid FHIR bundle at: {'; '.join(places)}. Please report this.") from None
