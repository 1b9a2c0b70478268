"""The sections of a report about scores: main table, the paper's figures, few-shot curves, ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clinprompt.experiments import figures
from clinprompt.experiments.board import Board, Stat, heading, recomputed, shots_order, stat
from clinprompt.experiments.comparisons import ALPHA, Comparison, compare
from clinprompt.experiments.document import Figure, Mark, Paragraph, Section, Table
from clinprompt.experiments.results import Cell
from clinprompt.methods.registry import METHODS

BELOW, ABOVE = "▾", "▴"


def spread(found: Stat | None) -> str:
    """Mean ± standard deviation; the mean alone for one run."""
    if found is None or math.isnan(found.mean):
        return "–"
    return f"{found.mean:.1f}" + ("" if math.isnan(found.sd) else f" ± {found.sd:.1f}")


def spread_mark(found: Stat | None, best: float) -> Mark:
    """Mean ± standard deviation, marked where it is the best."""
    return Mark(spread(found), found is not None and round(found.mean, 1) == best)


def p_text(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def p_phrase(p: float) -> str:
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def bracket(value: float, low: float, high: float) -> str:
    """Signed, with its interval where there is one."""
    text = f"{value:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")
    return text.replace("-", "−")


def examples_text(shots: int | str) -> str:
    """A number of shots in words."""
    return "all training examples" if shots == "full" else f"{shots} training examples"


# -- main table ------------------------------------------------------------------------------------------


def main_section(board: Board, comparisons: Sequence[Comparison], draw: bool) -> Section:
    """The main table, its comparisons with their tests, and, if `draw`, a forest plot of the differences."""
    section = Section(f"Scores with {examples_text(board.main_shots)}")
    section.blocks.append(_main_table(board, comparisons))
    if comparisons:
        section.blocks.append(comparison_table("comparisons", comparisons))
    svg = figures.forest(comparisons, board.reference) if draw else None
    if svg is not None:
        section.blocks.append(
            Figure(
                "differences",
                svg,
                f"Mean difference of {board.reference} to each other method, with 95 % intervals.",
                "Intervals: BCa bootstrap over targets. p: signed-rank test over targets × runs.",
            )
        )
    return section


def _main_table(board: Board, comparisons: Sequence[Comparison]) -> Table:
    methods = board.main_methods
    verdicts = {(c.other, t.target): t for c in comparisons for t in c.on_targets}
    rows: list[tuple[Any, ...]] = []
    data: list[dict[str, Any]] = []
    for target in board.targets:
        stats = {m: stat(board.scores(target, m)) for m in methods}
        n, n_all = board.samples[target]
        scored = f"{n:,}" if n == n_all else f"{n:,} of {n_all:,}"
        row: list[Any] = [f"`{target}`", figures.metric_name(board.headlines[target]), scored]
        best = best_of([stats[m].mean for m in methods])
        for method in methods:
            verdict = verdicts.get((method, target))
            sign = ""
            if verdict is not None and verdict.holm < ALPHA:
                sign = BELOW if verdict.difference.value > 0 else ABOVE
            row.append(Mark(spread(stats[method]), round(stats[method].mean, 1) == best, sign))
            data.append(_long_row(board, target, method, stats[method], verdict))
        rows.append(tuple(row))
    rows += _average_rows(board, methods)
    caption = (
        f"Mean ± standard deviation over runs (draws and seeds), in 0–100; best in bold. {BELOW} / {ABOVE}: "
        f"significantly below / above `{board.reference}` on this target (paired bootstrap over test records, Holm "
        f"over all {len(verdicts)} pairs of method and target, α = .05). In the averages each target counts once; "
        "shared targets are those that all methods have."
    )
    columns = ("target", "metric", "test records", *(heading(board, m) for m in methods))
    return Table("main", columns, tuple(rows), caption, tuple(data), texts=3)


def best_of(means: Sequence[float]) -> float:
    """The highest of several means as it is shown; nan for one or none."""
    known = [round(mean, 1) for mean in means if not math.isnan(mean)]
    return max(known) if len(known) > 1 else math.nan


def _long_row(board: Board, target: str, method: str, found: Stat, verdict: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "target": target,
        "type": board.types[target],
        "metric": board.headlines[target],
        "method": method,
        "shots": board.shots_shown(method),
        "mean": found.mean,
        "sd": found.sd,
        "runs": found.runs,
    }
    difference = verdict.difference if verdict is not None else None
    for name in ("value", "low", "high", "p"):
        row["reference_minus_method" if name == "value" else name] = getattr(difference, name, None)
    return row | {"p_holm": verdict.holm if verdict is not None else None}


def _average_rows(board: Board, methods: Sequence[str]) -> list[tuple[Any, ...]]:
    every = {m: board.average(m, board.targets) for m in methods}
    rows = [_average_row(board, f"**average of all {len(board.targets)}**", every, methods)]
    shared = board.complete_targets(methods)
    if len(shared) < len(board.targets) and shared:
        common = {m: board.average(m, shared) for m in methods}
        rows.append(_average_row(board, f"**average of {len(shared)} shared**", common, methods))
    return rows


def _average_row(board: Board, name: str, found: dict[str, Stat | None], methods: Sequence[str]) -> tuple[Any, ...]:
    best = best_of([s.mean for s in found.values() if s is not None])
    marks = []
    for method in methods:
        average = found[method]
        have = sum(bool(board.scores(t, method)) for t in board.targets)
        text = spread(average) if average is not None else f"– ({have} targets)"
        marks.append(Mark(text, average is not None and round(average.mean, 1) == best))
    return (name, "", "", *marks)


def comparison_table(name: str, comparisons: Sequence[Comparison]) -> Table:
    """One row per comparison of a family."""
    rows, data = [], []
    for c in comparisons:
        rank = f"{c.rank.value:+.2f}" + ("" if math.isnan(c.rank.low) else f" [{c.rank.low:+.2f}, {c.rank.high:+.2f}]")
        rank = rank.replace("-", "−")
        pairs = f"{c.over_runs.pairs} on {len(c.targets)}"
        rows.append(
            (
                f"{c.reference} − {c.other}",
                Mark(bracket(c.mean.value, c.mean.low, c.mean.high), c.significant),
                rank,
                pairs,
                p_text(c.over_runs.p),
                Mark(p_text(c.over_runs_holm), c.significant),
                p_text(c.over_targets.p),
                Mark(p_text(c.over_targets_holm), c.over_targets_holm < ALPHA),
                c.over_runs.remark,
            )
        )
        data.append(_comparison_data(c))
    columns = (
        "comparison",
        "mean difference [95 %]",
        "rank-biserial r [95 %]",
        "pairs on targets",
        "p, runs",
        "Holm",
        "p, targets",
        "Holm",
        "remark",
    )
    caption = (
        "Wilcoxon signed-rank, two-sided. Runs: pairs of equal target, draw and seed. Targets: one mean difference per "
        "target, because draws of one target are no independent witnesses; the stricter reading. Holm over this "
        f"table's {len(comparisons)} comparisons. r = +1: ahead in every pair. Intervals resample whole targets."
    )
    return Table(name, columns, tuple(rows), caption, tuple(data), remarks=1)


def _comparison_data(c: Comparison) -> dict[str, Any]:
    return {
        "reference": c.reference,
        "other": c.other,
        "shots": c.shots,
        "targets": len(c.targets),
        "pairs": c.over_runs.pairs,
        "zeros": c.over_runs.zeros,
        "mean_difference": c.mean.value,
        "mean_low": c.mean.low,
        "mean_high": c.mean.high,
        "rank_biserial": c.rank.value,
        "rank_low": c.rank.low,
        "rank_high": c.rank.high,
        "p_runs": c.over_runs.p,
        "p_runs_holm": c.over_runs_holm,
        "p_targets": c.over_targets.p,
        "p_targets_holm": c.over_targets_holm,
        "remark": c.over_runs.remark,
    }


def tested_otherwise(board: Board) -> tuple[str, ...]:
    """Targets whose headline does not follow from the records' results (macro-F1): the paired bootstrap tests their
    mean result there."""

    def differs(cell: Cell) -> bool:
        return not math.isnan(cell.value) and abs(recomputed(cell) - cell.value) > 0.1

    return tuple(t for t in board.targets if any(differs(c) for c in board.cells if c.target == t))


# -- the paper -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A figure of the paper: the best cell over its backbones, as a secondary source reports it."""

    target: str
    metric: str
    ours: str
    value: float


PAPER = "Clinical MPT, arXiv 2604.06650"
PUBLISHED = (
    Published("scinli", "F1", "macro_f1", 86.5),
    Published("headqa", "accuracy", "accuracy", 64.4),
    Published("medbullets", "accuracy", "accuracy", 68.9),
)
CLAIMS = {"lora": (1.5, 1.7), "pt": (6.1, 6.6)}
"""What the paper states MPT is ahead by, in points."""


def published_section(board: Board, comparisons: Sequence[Comparison]) -> Section | None:
    """The paper's figures beside ours; None if no target and no comparison is the same."""
    section = Section("Beside the paper")
    rows = []
    for known in PUBLISHED:
        if known.target not in board.targets:
            continue
        ours = []
        for method in board.main_methods:
            values = [c.metrics[known.ours][0] for c in board.runs(known.target, method) if known.ours in c.metrics]
            ours.append(spread(stat([v for v in values if v is not None])))
        rows.append((f"`{known.target}`", known.metric, known.value, *ours))
    if rows:
        columns = ("target", "metric", "paper, best cell", *(heading(board, m) for m in board.main_methods))
        caption = (
            f"Paper: {PAPER}, the best cell over LLaMA 3.1 8B, Meditron3 8B and gpt-oss 20B, as a secondary source "
            f"reports it. Not the same experiment: backbone (here `{board.cells[0].backbone}`) and split differ. "
            "F1 of ours is macro-F1; the paper's kind of F1 is not known to us."
        )
        section.blocks.append(Table("published", columns, tuple(rows), caption, texts=2))
    claims = []
    for other, (low, high) in CLAIMS.items():
        found = next((c for c in comparisons if c.other == other and c.reference == "mpt"), None)
        if found is not None:
            here = bracket(found.mean.value, found.mean.low, found.mean.high)
            claims.append((f"mpt − {other}", f"+{low} to +{high}", here, p_text(found.over_runs_holm)))
    if claims:
        columns = ("comparison", "paper, points", "here, points [95 %]", "p, runs, Holm")
        section.blocks.append(
            Table(
                "claims",
                columns,
                tuple(claims),
                "The paper's are averages over ten targets, of which three are ours too.",
            )
        )
    return section if section.blocks else None


# -- few-shot curves -------------------------------------------------------------------------------------


def few_shot_comparisons(board: Board) -> dict[int, list[Comparison]]:
    """Per number of shots the reference against the others: a family of its own."""
    if board.reference not in board.few_shot_methods:
        return {}
    others = [m for m in board.few_shot_methods if m != board.reference]
    found = {k: compare(board, others, shots=k, on_targets=False) for k in board.few_shots}
    return {k: comparisons for k, comparisons in found.items() if comparisons}


def few_shot_section(board: Board, families: dict[int, list[Comparison]], draw: bool) -> Section | None:
    """Scores by number of examples, with the comparisons of each number (`families`); None without few-shot cells."""
    methods = board.few_shot_methods
    if not methods:
        return None
    section = Section("Few examples")
    svg = figures.few_shot(board) if draw else None
    if svg is not None:
        section.blocks.append(
            Figure(
                "few-shot",
                svg,
                "Score against the number of training examples, a panel per task type, a line per method.",
                "Each target counts once; bands: one standard deviation over draws. Of a type those targets count that "
                "all methods have (named where others are left out); a point stands where the method has all of them.",
            )
        )
    section.blocks.append(_few_shot_table(board, methods))
    rows = [c for family in families.values() for c in family]
    if rows:
        table = comparison_table("few-shot-comparisons", rows)
        named = [(f"k = {c.shots}: {row[0]}", *row[1:]) for c, row in zip(rows, table.rows, strict=True)]
        caption = table.caption.replace(f"this table's {len(rows)} comparisons", "the comparisons of one k")
        section.blocks.append(Table(table.name, table.columns, tuple(named), caption, table.data, remarks=1))
    return section


def _few_shot_table(board: Board, methods: Sequence[str]) -> Table:
    rows: list[tuple[Any, ...]] = []
    data: list[dict[str, Any]] = []
    for k in board.few_shots:
        have = [m for m in methods if any(c.method == m and c.shots == k for c in board.cells)]
        targets = [t for t in board.targets if all(board.scores(t, m, k) for m in have)]
        found = {m: board.average(m, targets, k) if m in have else None for m in methods}
        best = best_of([s.mean for s in found.values() if s is not None])
        marks = [Mark(spread(s), s is not None and round(s.mean, 1) == best) for s in found.values()]
        rows.append((k, len(targets), *marks))
        for target in board.targets:
            for method in have:
                one = stat(board.scores(target, method, k))
                key = {"shots": k, "target": target, "type": board.types[target], "method": method}
                data.append(key | {"mean": one.mean, "sd": one.sd, "runs": one.runs})
    caption = (
        "Average over the targets that all methods of the row have ± standard deviation of that average over draws."
    )
    return Table("few-shot", ("k", "targets", *methods), tuple(rows), caption, tuple(data))


# -- ablations -------------------------------------------------------------------------------------------


def ablation_section(board: Board, comparisons: Sequence[Comparison], draw: bool) -> Section | None:
    """Variants of the reference by type of task; differences to it are a family of their own."""
    if not board.ablations:
        return None
    methods = (board.reference, *board.ablations)
    kinds = list(dict.fromkeys(board.types.values()))
    targets = board.complete_targets(methods)
    rows = []
    for method in methods:
        means: list[Any] = []
        for kind in kinds:
            of_kind = [t for t in targets if board.types[t] == kind]
            means.append(spread(board.average(method, of_kind)) if of_kind else None)
        summary = METHODS[method].summary if method in METHODS else ""
        rows.append((f"`{method}`", summary, *means, Mark(spread(board.average(method, targets)))))
    columns = ("variant", "what it is", *(figures.TYPE_NAMES[k] for k in kinds), f"average of {len(targets)}")
    caption = "Mean ± standard deviation over runs, on the targets that every variant has; each target counts once."
    section = Section("Ablations", [Table("ablation", columns, tuple(rows), caption, texts=2)])
    if comparisons:
        section.blocks.append(comparison_table("ablation-comparisons", comparisons))
        svg = figures.forest(comparisons, board.reference) if draw else None
        if svg is not None:
            alt = f"Mean difference of {board.reference} to each of its variants, with 95 % intervals."
            section.blocks.append(Figure("ablation", svg, alt))
    else:
        section.blocks.append(Paragraph("No variant shares a target with the reference."))
    return section


def missing_text(board: Board) -> str:
    """How many cells are missing, and of which methods at which shots."""
    if not board.missing:
        return f"All {len(board.cells):,} cells are there."
    places: dict[tuple[str, int | str], int] = {}
    for _, method, shots, _, _ in board.missing:
        places[method, shots] = places.get((method, shots), 0) + 1
    order = sorted(places.items(), key=lambda item: (item[0][0], shots_order(item[0][1])))
    shown = [f"{count} of `{method}` with {examples_text(shots)}" for (method, shots), count in order[:8]]
    more = f" and {len(order) - 8} other places" if len(order) > 8 else ""
    return (
        f"{len(board.cells):,} cells are there, **{len(board.missing):,} are missing**: {', '.join(shown)}{more}. "
        "Nothing was put in their place."
    )
