"""Every error this library raises on purpose.

Each message names what was wrong, where (file and line when there is one) and what to do about it. Messages never
quote the text of a note: an offset or an identifier is enough to find the place, and logs outlive consent.
"""

from __future__ import annotations

from pathlib import Path


class ClinpromptError(Exception):
    """Base of all errors a user can act on; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class CorpusError(ClinpromptError):
    """A corpus file that cannot be read as what it claims to be.

    The message reads ``path:line: problem. cure``; `line` is 1-based, None when the format has no lines.
    """

    def __init__(self, path: Path | str, line: int | None, problem: str, cure: str = "") -> None:
        self.path, self.line, self.problem, self.cure = Path(path), line, problem, cure
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{place}: {problem}" + (f" {cure}" if cure else ""))


class DataMissingError(ClinpromptError):
    """A public corpus that is neither in the given folder nor downloaded."""


class ConsentError(ClinpromptError):
    """A corpus whose licence asks for a decision that the user has not taken."""


class TaskError(ClinpromptError):
    """A task definition that contradicts itself or its data, or an unknown task name."""


class BackboneError(ClinpromptError):
    """A base model that cannot be loaded, or an artifact made for another one."""


class ArtifactError(ClinpromptError):
    """A metaprompt or task file that is damaged, of another shape, or of another version."""


class TrainingError(ClinpromptError):
    """A training configuration that cannot run, or a checkpoint that belongs to another run."""


class ResultsError(ClinpromptError):
    """A results file with a damaged line, or results that cannot stand in one report. `line` is 1-based."""

    def __init__(self, path: Path | str, line: int | None, problem: str, cure: str = "") -> None:
        self.path, self.line, self.problem, self.cure = Path(path), line, problem, cure
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{place}: {problem}" + (f" {cure}" if cure else ""))


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Message for a misspelt name: what was asked, the closest match, and all that exist."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known) or '(none)'}."
