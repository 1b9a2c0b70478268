"""The sections of a report that only a comparison of multi-task methods has: equal size, searches, types of tasks."""

from __future__ import annotations

from typing import Any

from clinprompt.experiments import figures
from clinprompt.experiments.board import Board, stat
from clinprompt.experiments.cost_sections import quantity
from clinprompt.experiments.document import Section, Table
from clinprompt.experiments.results import Cell
from clinprompt.experiments.score_sections import best_of, spread_mark


def multitask_section(board: Board) -> Section | None:
    """None for results of methods that learn one task at a time."""
    if not board.together:
        return None
    tables = [_sizes(board), _types(board)]
    return Section("One adapter for all tasks", [table for table in tables if table is not None])


def _sizes(board: Board) -> Table:
    rows, data = [], []
    for method in board.methods:
        cells = [cell for cell in board.cells if cell.method == method]
        settings, tasks = cells[0].settings, max(1, len({cell.target for cell in cells}))
        spent = _whole(cells)
        search = settings.get("search") or {}
        ratio = cells[0].trainable / settings["budget"]
        rows.append(
            (
                f"`{method}`",
                _size(settings["adapter"]),
                cells[0].trainable,
                f"{100 * ratio:.0f} %",
                f"{search['trials']} on {len(search['tasks'])} tasks" if search else "–",
                quantity(search.get("seconds"), "s"),
                quantity(search.get("flops"), "FLOP"),
                quantity(spent["seconds"], "s"),
                quantity(spent["flops"], "FLOP"),
            )
        )
        facts = {f"search_{key}": search.get(key) for key in ("trials", "seconds", "flops", "tokens")}
        data.append({"method": method, "tasks": tasks, "trained": cells[0].trainable, "ratio": ratio, **facts, **spent})
    columns = (
        "method",
        "adapter",
        "trained numbers",
        "of the budget",
        "search",
        "search time",
        "search operations",
        "all training, per run",
        "operations, per run",
    )
    caption = (
        "Trained numbers are those of the whole adapter, over all tasks. All training: mean over runs of everything "
        "that the method needed for all tasks together, tuning trials and search included. A search is done once and "
        "charged to the first run."
    )
    return Table("adapters", columns, tuple(rows), caption, tuple(data), texts=2)


def _whole(cells: list[Cell]) -> dict[str, float]:
    """Seconds and FLOPs of a run over all its tasks: its cells hold a share each."""
    runs = sorted({(cell.draw, cell.seed) for cell in cells})
    sums = [[c for c in cells if (c.draw, c.seed) == run] for run in runs]
    return {
        "seconds": stat([sum(c.train_seconds for c in part) for part in sums]).mean,
        "flops": stat([sum(c.flops for c in part) for part in sums]).mean,
    }


def _size(adapter: dict[str, Any]) -> str:
    """What makes it large, in words."""
    network = adapter.get("architecture")
    parts = [f"rank {adapter['rank']}"] if "rank" in adapter else []
    length = adapter.get("length") or (network["length"] if network else None)
    parts += [f"prefix of {length}"] if length else []
    return ", ".join(parts) + (f" from {' → '.join(network['operations'])}" if network else "")


def _types(board: Board) -> Table:
    kinds = list(dict.fromkeys(board.types.values()))
    targets = board.complete_targets(board.main_methods)
    chosen = {kind: [t for t in targets if board.types[t] == kind] for kind in kinds}
    kinds = [kind for kind in kinds if chosen[kind]]
    found = {m: [board.average(m, chosen[kind]) for kind in kinds] for m in board.main_methods}
    best = [best_of([average.mean for average in column if average]) for column in zip(*found.values(), strict=True)]
    rows = [
        (f"`{method}`", *(spread_mark(average, top) for average, top in zip(averages, best, strict=True)))
        for method, averages in found.items()
    ]
    columns = ("method", *(f"{figures.TYPE_NAMES[kind]} ({len(chosen[kind])})" for kind in kinds))
    caption = "Average over the tasks of a type that all methods have ± standard deviation over runs; best in bold."
    return Table("types", columns, tuple(rows), caption)
