"""The results file of a benchmark: JSON Lines, one finished cell a line, from which the cell can be run again.

A file also says, on lines of other kinds, what learning each metaprompt cost, which records a test set has (once, not
in every cell), and which cells were planned. No line holds the text of a record.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from clinprompt.errors import ResultsError
from clinprompt.tasks.definition import TaskType

Shots = Annotated[int, Field(ge=0)] | Literal["full"]
Count = Annotated[int, Field(ge=0)]
Cost = Annotated[float, Field(ge=0)]
CellKey = tuple[str, str, int | str, int, int]
"""(target, method, shots, draw, seed)."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Trial(_Line):
    """One point of a tuning grid: the settings tried, and their score on what they were chosen by (`on`, never test).
    A lower loss is better, a higher score is better: `minimise` says which it is."""

    values: dict[str, Any]
    score: float | None = None
    on: str = ""
    minimise: bool = True


class Cell(_Line):
    """One finished run on one target: what it was, what came out, what it cost.

    metrics: name → (value, low, high) in 0..100, null where undefined. per_example: per test record, in the order of
    the test set, (true positives, false positives, false negatives) where the metric is micro-F1, else the record's own
    score in 0..1. errors: counts by kind; error_records: for a kind, ids of some records that show it. flops,
    train_seconds and joules include every tuning trial of the cell, so that methods are compared by what they cost.
    test_set and metaprompt are digests of lines of those kinds ("" where there is none).
    """

    kind: Literal["cell"] = "cell"
    id: str = Field(min_length=1)
    suite: str
    target: str
    type: TaskType
    method: str
    shots: Shots
    draw: Count = 0
    seed: Count = 0
    headline: str
    metrics: dict[str, tuple[float | None, float | None, float | None]]
    n: int = Field(ge=1)
    n_all: int = Field(ge=1)
    per_example: list[tuple[Count, Count, Count]] | list[Annotated[float, Field(ge=0, le=1)]]
    test_set: str = ""
    errors: dict[str, Count] = Field(default_factory=dict)
    error_records: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    chosen: dict[str, Any] = Field(default_factory=dict)
    trainable: Count
    trainable_percent: Cost
    stored_bytes: Count
    flops: Cost
    train_seconds: Cost
    predict_seconds: Cost
    joules: Cost | None = None
    backbone: str
    fingerprint: str = ""
    metaprompt: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    library: str = ""
    machine: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Cell:
        if self.headline not in self.metrics:
            raise ValueError(f"the headline {self.headline} is not among the metrics {', '.join(self.metrics)}")
        if len(self.per_example) != self.n:
            raise ValueError(f"n is {self.n} but per_example has {len(self.per_example)} entries")
        if self.n > self.n_all:
            raise ValueError(f"n is {self.n}, more than n_all, {self.n_all}")
        return self

    @property
    def key(self) -> CellKey:
        return (self.target, self.method, self.shots, self.draw, self.seed)

    @property
    def value(self) -> float:
        """The headline metric in 0..100; nan where it is undefined."""
        found = self.metrics[self.headline][0]
        return math.nan if found is None else found


def numerics_text(numerics: Mapping[str, Any]) -> str:
    """`Backbone.numerics` as people read it: "float32, bf16 autocast"."""
    autocast = "bf16 autocast" if numerics.get("autocast") else ""
    quantise = f"{numerics['quantise']} weights" if numerics.get("quantise") else ""
    return ", ".join(part for part in (str(numerics.get("dtype")), autocast, quantise) if part)


def other_numerics(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The message for cells of another precision, which an id does not tell apart."""
    return (
        f"{what} computed in {numerics_text(theirs)}, and this run computes in {numerics_text(ours)}. Give the same "
        "--dtype, --autocast and --quantise, or another --work and --out."
    )


class MetaLine(_Line):
    """What learning one metaprompt cost: teachers, their states and the distillation together."""

    kind: Literal["metaprompt"] = "metaprompt"
    variant: str
    seed: Count = 0
    digest: str = ""
    suite: str = ""
    sources: tuple[str, ...] = ()
    seconds: Cost
    flops: Cost
    joules: Cost | None = None
    stored_bytes: Count = 0
    trainable: Count = 0
    backbone: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    library: str = ""
    machine: str = ""


class TestSet(_Line):
    """The ids of the records of a target's test set, in the order of every `per_example` that names this digest."""

    __test__ = False  # no class of tests

    kind: Literal["test-set"] = "test-set"
    target: str
    digest: str = Field(min_length=1)
    ids: tuple[str, ...]


class Planned(_Line):
    """What a benchmark set out to run, as (target, method, shots, draw, seed); a cell without a line is missing."""

    kind: Literal["plan"] = "plan"
    suite: str = ""
    cells: tuple[tuple[str, str, Shots, Count, Count], ...]


Line = Cell | MetaLine | TestSet | Planned
_LINES: dict[str, TypeAdapter[Any]] = {
    "cell": TypeAdapter(Cell),
    "metaprompt": TypeAdapter(MetaLine),
    "test-set": TypeAdapter(TestSet),
    "plan": TypeAdapter(Planned),
}


@dataclass
class Results:
    """All lines of some files. `contradictions`: ids of cells that were computed more than once with different
    results; the first one read is kept."""

    cells: list[Cell] = field(default_factory=list)
    metaprompts: list[MetaLine] = field(default_factory=list)
    test_sets: dict[str, TestSet] = field(default_factory=dict)
    planned: set[CellKey] = field(default_factory=set)
    contradictions: list[str] = field(default_factory=list)


def parse_line(text: str) -> Line:
    """One line. Raises ValueError (pydantic's ValidationError included) for what is no such line."""
    raw = json.loads(text)
    if not isinstance(raw, dict):
        raise ValueError("a line is a JSON object")
    kind = raw.get("kind", "cell")
    if kind not in _LINES:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(_LINES)}")
    line: Line = _LINES[kind].validate_python(raw)
    return line


def line_text(line: Line) -> str:
    """A line as it stands in a file, with its newline; numbers JSON cannot hold are refused (ValueError)."""
    return json.dumps(line.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n"


def append_line(path: Path, line: Line) -> None:
    """Add one line. It is written in one piece and reaches the disk before this returns."""
    data = line_text(line).encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path}: a line was written in part only. Is the disk full?")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_results(paths: Path | Iterable[Path]) -> Results:
    """Every line of these files. A cell that stands there twice is kept once.

    Raises ResultsError, naming file and line, for a line that is damaged or does not fit.
    """
    results, seen, costs = Results(), dict[str, Cell](), set[tuple[Any, ...]]()
    for path in [paths] if isinstance(paths, Path) else paths:
        for line in _lines(path):
            if isinstance(line, Cell):
                _add_cell(results, seen, line)
            elif isinstance(line, MetaLine):
                identity = (line.variant, line.seed, line.digest, line.backbone)
                if identity not in costs:
                    results.metaprompts.append(line)
                costs.add(identity)
            elif isinstance(line, TestSet):
                results.test_sets[line.digest] = line
            else:
                results.planned.update(line.cells)
    return results


def _add_cell(results: Results, seen: dict[str, Cell], cell: Cell) -> None:
    before = seen.get(cell.id)
    if before is None:
        seen[cell.id] = cell
        results.cells.append(cell)
    elif (before.key, before.metrics, before.per_example) != (cell.key, cell.metrics, cell.per_example):
        results.contradictions.append(cell.id)


def _lines(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultsError(path, None, "no such file.", "`clinprompt benchmark` writes results files.") from None
    except UnicodeDecodeError as error:
        raise ResultsError(path, None, f"not UTF-8 at byte {error.start}.") from None
    found: list[Line] = []
    rows = text.split("\n")
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            found.append(parse_line(row))
        except json.JSONDecodeError as error:
            cut = number == len(rows)  # a whole line ends with a newline, so there would be an empty row behind it
            raise ResultsError(path, number, *_broken_json(error, cut)) from None
        except ValidationError as error:
            raise ResultsError(path, number, explain(error.errors())) from None
        except ValueError as error:
            raise ResultsError(path, number, f"{error}.") from None
    return found


def _broken_json(error: json.JSONDecodeError, cut: bool) -> tuple[str, str]:
    problem = f"not valid JSON at column {error.colno}: {error.msg}."
    if cut:
        return problem, "The last line is cut off: delete it, and the benchmark computes that cell again."
    return problem, "Restore the line, or delete it and run the benchmark again."


def explain(errors: Sequence[Any]) -> str:
    """What is wrong with a line, at most three things of it, without its values."""
    parts = [f"`{'.'.join(str(part) for part in e['loc']) or 'line'}`: {e['msg']}" for e in errors[:3]]
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return "; ".join(parts) + more + "."
