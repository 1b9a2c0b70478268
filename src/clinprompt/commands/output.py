"""What commands print: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

StageBar = Callable[[str, int, int, float], None]
PLAIN_WIDTH = 120  # columns where the output is no terminal


def stdout() -> Console:
    """Standard output as it is now; wide enough for a table when it is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def print_json(data: Any) -> None:
    """One JSON value; what JSON cannot hold (NaN, infinity) becomes null."""
    print(json.dumps(_finite(data), indent=1, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str = "") -> None:
    """A table; columns whose cells are all numbers (or empty) are aligned on the right."""
    table = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    cells = [[_cell(value) for value in row] for row in rows]
    for index, name in enumerate(columns):
        right = all(_numeric(row[index]) for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    stdout().print(table)


def say(text: str) -> None:
    """A line of a result."""
    stdout().print(text, markup=False, soft_wrap=True)


def remark(text: str, quiet: bool = False) -> None:
    """A line about the run, on standard error."""
    if not quiet:
        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


@contextmanager
def stage_bars(enabled: bool) -> Iterator[StageBar | None]:
    """A bar with ETA per stage on standard error; None when disabled or when that is no terminal.

    A stage that resumes begins where it stopped, so that the ETA counts only what is left.
    """
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as display:

        def update(stage: str, done: int, total: int, loss: float) -> None:
            shown = "" if math.isnan(loss) else f"loss {loss:.3f}"
            if stage not in bars:
                bars[stage] = display.add_task(stage, total=total, completed=max(0, done - 1), loss=shown)
            display.update(bars[stage], completed=done, loss=shown)

        yield update


def counter(bar: StageBar | None, name: str) -> Callable[[int, int], None] | None:
    """The (done, total) callback of predictions, from a stage bar."""
    return None if bar is None else lambda done, total: bar(name, done, total, math.nan)


def steps(bar: StageBar | None, name: str) -> Callable[[int, int, float], None] | None:
    """The (step, steps, loss) callback of a training, from a stage bar."""
    return None if bar is None else lambda done, total, loss: bar(name, done, total, loss)


def quantity(value: float) -> str:
    """12,345 up to a million, then 1.2 M, 3.4 G, …"""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:,.0f}"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:,.1f} KB" if count < 1_000_000 else f"{count / 1_000_000:,.1f} MB"


def duration(seconds: float | None) -> str:
    """Seconds as minutes and hours."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def interval(value: Any) -> str:
    """A score with its 95 % interval."""
    return f"{value.value:.1f} [{value.low:.1f}, {value.high:.1f}]"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _numeric(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
