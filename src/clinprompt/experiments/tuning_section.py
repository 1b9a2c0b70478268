"""The section of a report about tuning: what every method tried and chose, and whether it may have more to give."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clinprompt.experiments.board import Board
from clinprompt.experiments.document import Paragraph, Section, Table
from clinprompt.experiments.protocol import FULL
from clinprompt.experiments.results import Cell

NEARLY_ALWAYS = 0.8
"""The share of choices at one edge of what was tried from which a report warns. Our choice."""
FEWEST_CHOICES = 3


def budgets(board: Board) -> dict[str, int]:
    """Per method that trains, the largest number of trials of a cell."""
    trained = {c.method for c in board.cells if c.trainable}
    return {m: max(len(c.trials) for c in board.cells if c.method == m) for m in board.methods if m in trained}


def tuning_section(board: Board) -> Section:
    """What every method tried and chose, whether all had equally many trials, and who ended at an edge of its grid."""
    section = Section("Tuning")
    found = budgets(board)
    if not found:
        section.blocks.append(Paragraph("No method was trained."))
        return section
    section.blocks.append(Paragraph(_equal(found)))
    if warnings := at_edges(board):
        section.blocks.append(
            Paragraph(
                "**Nearly always chosen: an edge of what was tried.** "
                + "; ".join(warnings)
                + ". What lies beyond was not tried here, and may be better: look on validation records before such a "
                "method is called beaten."
            )
        )
    columns = ("method", "trained with", "trials per run", "chosen on", "tried", "chosen (runs)", "choices at an edge")
    rows = tuple(_row(*part) for part in _parts(board))
    section.blocks.append(Table("tuning", columns, rows, "Nothing is chosen on test records.", texts=7))
    return section


def at_edges(board: Board) -> list[str]:
    """Methods that nearly always chose the highest, or the lowest, of what they tried."""
    found = [(method, shots, _edge(cells).warning) for method, shots, cells in _parts(board)]
    return [f"`{method}`, {shots}: {warning}" for method, shots, warning in found if warning]


def _equal(found: dict[str, int]) -> str:
    if len(set(found.values())) == 1:
        return f"Every trained method had {next(iter(found.values()))} trials."
    numbers = ", ".join(f"`{method}` {n}" for method, n in found.items())
    return (
        f"**The tuning budgets are not equal**: {numbers} trials. A comparison in which one side had fewer is biased "
        "against it."
    )


def _parts(board: Board) -> list[tuple[str, str, list[Cell]]]:
    """Per method that trains its cells with all records, and those with few: their grids may differ. Cells without
    trials where there are no others."""
    found = []
    for method in budgets(board):
        cells = [c for c in board.cells if c.method == method]
        tuned = [c for c in cells if c.trials] or cells
        few = [c for c in tuned if c.shots != FULL]
        numbers = ", ".join(map(str, sorted({int(c.shots) for c in few})))
        parts = (("all records", [c for c in tuned if c.shots == FULL]), (f"{numbers} shots", few))
        found += [(method, shots, part) for shots, part in parts if part]
    return found


def _row(method: str, shots: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    counts = sorted({len(c.trials) for c in cells if c.trials})
    judged = sorted({t.on.replace(c.target, "the target") for c in cells for t in c.trials if t.on})
    grid: dict[str, list[Any]] = {}
    for trial in (trial for cell in cells for trial in cell.trials):
        for name, value in trial.values.items():
            grid.setdefault(name, []).append(value)
    tried = "; ".join(f"{name}: {', '.join(_distinct(values))}" for name, values in grid.items())
    return (
        f"`{method}`",
        shots,
        "–".join(str(c) for c in (counts if len(counts) < 2 else (counts[0], counts[-1]))),
        ", ".join(judged) or "–",
        tried or "–",
        _chosen(cells),
        _edge(cells).text,
    )


# -- edges of the grid ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edge:
    """How many choices of a setting fell on the highest and on the lowest value that was tried."""

    setting: str = ""
    highest: int = 0
    lowest: int = 0
    choices: int = 0

    @property
    def text(self) -> str:
        return f"highest {self.highest}, lowest {self.lowest} of {self.choices}" if self.choices else "–"

    @property
    def warning(self) -> str:
        """Where nearly all choices fell on one edge; else nothing."""
        most, which = max((self.highest, "highest"), (self.lowest, "lowest"))
        if self.choices < FEWEST_CHOICES or most < NEARLY_ALWAYS * self.choices:
            return ""
        return f"the {which} {self.setting} in {most} of {self.choices}"


def _edge(cells: Sequence[Cell]) -> Edge:
    """Of the first setting with several numbers. A choice is one per target, number of shots and what was tried; runs
    that train what another one chose make none of their own."""
    tried = [c for c in cells if c.trials]
    names = list(dict.fromkeys(name for c in tried for name in c.chosen))
    name = next((n for n in names if any(len(_values(c, n)) > 1 for c in tried)), None)
    if name is None:
        return Edge()
    choices = {(c.target, c.shots, str(c.trials)): c for c in tried if len(_values(c, name)) > 1}.values()
    highest = sum(c.chosen[name] == max(_values(c, name)) for c in choices)
    lowest = sum(c.chosen[name] == min(_values(c, name)) for c in choices)
    return Edge(name, highest, lowest, len(choices))


def _values(cell: Cell, name: str) -> set[float]:
    return {trial.values[name] for trial in cell.trials if _number(trial.values.get(name))}


# -- values as text ---------------------------------------------------------------------------------------------------


def _distinct(values: Sequence[Any]) -> list[str]:
    texts = {json.dumps(v, sort_keys=True, ensure_ascii=False): v for v in values}
    ordered = sorted(texts, key=lambda t: (0, float(texts[t]), "") if _number(texts[t]) else (1, 0.0, t))
    return [t.strip('"') for t in ordered]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chosen(cells: Sequence[Cell]) -> str:
    names = list(dict.fromkeys(name for c in cells for name in c.chosen))
    parts = []
    for name in names:
        counts = Counter(
            json.dumps(c.chosen[name], sort_keys=True, ensure_ascii=False) for c in cells if name in c.chosen
        )
        shown = [f"{value.strip(chr(34))} ({count}×)" for value, count in sorted(counts.items(), key=lambda x: -x[1])]
        parts.append(f"{name}: {', '.join(shown[:6])}" + (" …" if len(shown) > 6 else ""))
    return "; ".join(parts) or "–"
