"""Cells laid out for comparison: one backbone, one suite; targets and methods in order, what is missing, averages."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clinprompt.errors import ResultsError, unknown_name
from clinprompt.experiments.results import Cell, CellKey, Results
from clinprompt.experiments.significance import Array, micro_f1
from clinprompt.methods.registry import METHODS, MULTITASK
from clinprompt.tasks.definition import TASK_TYPES, TaskType


@dataclass(frozen=True, slots=True)
class Stat:
    """Mean and standard deviation (n − 1; nan for a single run) of `runs` scores."""

    mean: float
    sd: float
    runs: int


def stat(values: Sequence[float]) -> Stat:
    """Of no values the mean is nan."""
    if not len(values):
        return Stat(math.nan, math.nan, 0)
    return Stat(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values))


def shots_order(shots: int | str) -> float:
    """Numbers first, `full` last."""
    return math.inf if shots == "full" else float(shots)


def is_ablation(method: str) -> bool:
    """Variants of MPT whose metaprompt is learned in another way than the library does."""
    spec = METHODS.get(method)
    return spec is not None and bool(spec.learn) and spec.adapt.get("method") == "mpt"


@dataclass(frozen=True)
class Board:
    """Cells of one backbone and one suite. `reference`: the method that all others are held against."""

    results: Results
    cells: tuple[Cell, ...]
    reference: str

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, int | str], list[Cell]]:
        places: dict[tuple[str, str, int | str], list[Cell]] = defaultdict(list)
        for cell in sorted(self.cells, key=lambda c: (c.draw, c.seed)):
            places[cell.target, cell.method, cell.shots].append(cell)
        return places

    @cached_property
    def types(self) -> dict[str, TaskType]:
        """The type of each target, targets in the order of types, then as they came."""
        found = {cell.target: cell.type for cell in self.cells}
        return dict(sorted(found.items(), key=lambda item: TASK_TYPES.index(item[1])))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.types)

    @cached_property
    def together(self) -> bool:
        """Whether the methods learned all targets together, in one adapter each."""
        return all("multitask" in cell.settings for cell in self.cells)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """In the registry's order, unknown ones behind."""
        known = list(dict.fromkeys([*METHODS, *MULTITASK]))
        present = dict.fromkeys(cell.method for cell in self.cells)
        return tuple(sorted(present, key=lambda m: known.index(m) if m in known else len(known)))

    @cached_property
    def main_methods(self) -> tuple[str, ...]:
        """Those of the main table: no ablations but the reference, and none whose cells there are all missing."""
        return tuple(m for m in self._shown if not is_ablation(m) or m == self.reference)

    @cached_property
    def ablations(self) -> tuple[str, ...]:
        return tuple(m for m in self._shown if is_ablation(m) and m != self.reference)

    @cached_property
    def _shown(self) -> tuple[str, ...]:
        return tuple(m for m in self.methods if any(self.runs(target, m) for target in self.targets))

    @cached_property
    def main_shots(self) -> int | str:
        """What the main table shows: all examples if any method has them, else the largest number there is."""
        return max((cell.shots for cell in self.cells), key=shots_order)

    def shots_shown(self, method: str) -> int | str:
        """The main table's shots, or, for a method without them (the instruction alone), its own largest. Where the
        main table's were planned for it, they are missing, and nothing stands in their place."""
        own: set[int | str] = {cell.shots for cell in self.cells if cell.method == method}
        own |= {key[2] for key in self.results.planned if key[1] == method}
        return self.main_shots if self.main_shots in own else max(own, key=shots_order)

    def runs(self, target: str, method: str, shots: int | str | None = None) -> list[Cell]:
        """Cells of a place in the main table, or at other shots, by draw and seed."""
        return self._by_place.get((target, method, self.shots_shown(method) if shots is None else shots), [])

    def scores(self, target: str, method: str, shots: int | str | None = None) -> list[float]:
        """Headline scores, undefined ones left out."""
        return [cell.value for cell in self.runs(target, method, shots) if not math.isnan(cell.value)]

    def average(self, method: str, targets: Iterable[str], shots: int | str | None = None) -> Stat | None:
        """Mean over targets, each once; None if one of them has no run. The deviation is that of the averages of the
        runs (draw, seed) that every target has; nan if there are fewer than two."""
        rows = [self.runs(target, method, shots) for target in targets]
        means = [stat([c.value for c in row if not math.isnan(c.value)]).mean for row in rows]
        if not rows or any(math.isnan(mean) for mean in means):
            return None
        by_run = [{(c.draw, c.seed): c.value for c in row} for row in rows]
        shared = set.intersection(*(set(found) for found in by_run))
        averages = stat([float(np.mean([found[key] for found in by_run])) for key in sorted(shared)])
        return Stat(float(np.mean(means)), averages.sd, len(shared))

    def complete_targets(self, methods: Iterable[str]) -> tuple[str, ...]:
        """The targets on which every one of these methods has a run."""
        names = tuple(methods)
        return tuple(t for t in self.targets if all(self.scores(t, m) for m in names))

    @cached_property
    def few_shots(self) -> tuple[int, ...]:
        """Numbers of shots in ascending order."""
        return tuple(sorted({cell.shots for cell in self.cells if isinstance(cell.shots, int)}))

    @cached_property
    def few_shot_methods(self) -> tuple[str, ...]:
        """Methods with results at two numbers of shots or more."""
        numbers: dict[str, set[int]] = defaultdict(set)
        for cell in self.cells:
            if isinstance(cell.shots, int):
                numbers[cell.method].add(cell.shots)
        return tuple(m for m in self.methods if len(numbers[m]) >= 2)

    @cached_property
    def few_shot_targets(self) -> tuple[str, ...]:
        """Targets on which every one of `few_shot_methods` has results at two numbers of shots or more."""
        return tuple(
            target
            for target in self.targets
            if self.few_shot_methods
            and all(sum(bool(self.scores(target, m, k)) for k in self.few_shots) >= 2 for m in self.few_shot_methods)
        )

    @cached_property
    def missing(self) -> tuple[CellKey, ...]:
        """Planned cells without a line. Without a plan: runs that a method has on another target at the same shots."""
        have = {cell.key for cell in self.cells}
        wanted = set(self.results.planned) or {
            (target, c.method, c.shots, c.draw, c.seed) for c in self.cells for target in self.targets
        }
        return tuple(sorted(wanted - have, key=lambda key: (*key[:2], shots_order(key[2]), *key[3:])))

    @cached_property
    def samples(self) -> dict[str, tuple[int, int]]:
        """Per target the scored and the available test records (the smallest numbers, should cells differ)."""
        return {target: min((c.n, c.n_all) for c in self.cells if c.target == target) for target in self.targets}

    @cached_property
    def headlines(self) -> dict[str, str]:
        """Per target its metric (the most frequent, should cells differ)."""
        return {
            target: Counter(c.headline for c in self.cells if c.target == target).most_common(1)[0][0]
            for target in self.targets
        }


def heading(board: Board, method: str) -> str:
    """The method's name, with its number of examples where that is not the table's."""
    shots = board.shots_shown(method)
    return method if shots == board.main_shots else f"{method} (k = {shots})"


def outcomes(cells: Sequence[Cell]) -> Array:
    """(runs, n) scores of records, or (runs, n, 3) counts."""
    return np.asarray([cell.per_example for cell in cells], dtype=np.float64)


def recomputed(cell: Cell) -> float:
    """The score that follows from the records' results, in 0..100."""
    table = outcomes([cell])
    return float(100 * (micro_f1(table.sum(axis=1))[0] if table.ndim == 3 else table.mean()))


def lay_out(
    results: Results, *, backbone: str | None = None, suite: str | None = None, reference: str | None = None
) -> Board:
    """The board of some results. Raises ResultsError if there are no cells, if they come from several backbones or
    suites and none was chosen, if what was chosen is not there, or if one place has cells of several protocols."""
    chosen = _choose(list(results.cells), "backbone", backbone)
    chosen = _choose(chosen, "suite", suite)
    methods = list(dict.fromkeys(cell.method for cell in chosen))
    if reference is None:
        reference = next((m for m in ("mpt", "mpt+", "peml") if m in methods), methods[0])
    elif reference not in methods:
        raise ResultsError("--reference", None, unknown_name("method", reference, methods))
    _same_test_sets(chosen)
    _one_protocol(chosen)
    return Board(results, tuple(chosen), reference)


def _choose(cells: list[Cell], what: str, name: str | None) -> list[Cell]:
    known = sorted({str(getattr(cell, what)) for cell in cells})
    if not cells:
        raise ResultsError("report", None, "no results.", "`clinprompt benchmark` computes them.")
    if name is None and len(known) > 1:
        raise ResultsError(
            "report", None, f"results of {len(known)} {what}s: {', '.join(known)}.", f"Choose one with --{what}."
        )
    if name is not None and name not in known:
        raise ResultsError(f"--{what}", None, unknown_name(what, name, known))
    return [cell for cell in cells if name is None or getattr(cell, what) == name]


def _same_test_sets(cells: Sequence[Cell]) -> None:
    """One target, one test set: scores on different records cannot stand in one row."""
    seen: dict[str, tuple[Any, ...]] = {}
    for cell in cells:
        now = (cell.test_set, cell.n, cell.headline)
        if seen.setdefault(cell.target, now) != now:
            raise ResultsError(
                "report",
                None,
                f"cells of {cell.target} were scored on different test records or by different metrics "
                f"({_scored(seen[cell.target])}; {_scored(now)}, cell {cell.id}).",
                "Report them separately, or run the benchmark again with one limit.",
            )


def _one_protocol(cells: Sequence[Cell]) -> None:
    """One place, one cell: a run under other settings is no further run of its method."""
    places: dict[CellKey, Cell] = {}
    for cell in cells:
        first = places.setdefault(cell.key, cell)
        if first.id != cell.id:
            raise ResultsError(
                "report",
                None,
                f"{cell.method} on {cell.target} ({cell.shots} shots, draw {cell.draw}, seed {cell.seed}) stands there "
                f"under two protocols: cells {first.id} and {cell.id}.",
                "An --out file keeps the lines of earlier settings: remove those, or report their files separately.",
            )


def _scored(what: tuple[Any, ...]) -> str:
    return f"test set {what[0] or 'unnamed'}, {what[1]} records, {what[2]}"
