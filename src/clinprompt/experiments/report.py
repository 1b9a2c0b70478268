"""Results → a report: what came out in words, then tables and figures, as Markdown, CSV, SVG and one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinprompt.experiments.board import Board, heading, lay_out
from clinprompt.experiments.comparisons import ALPHA, Comparison, compare
from clinprompt.experiments.constant_section import Held, constant_section, constant_text, held_against_constant
from clinprompt.experiments.cost_sections import cost_section, errors_section, payback, worth_section
from clinprompt.experiments.document import (
    Document,
    Paragraph,
    Points,
    Section,
    Table,
    plain,
    table_csv,
    to_html,
    to_markdown,
)
from clinprompt.experiments.multitask_sections import multitask_section
from clinprompt.experiments.results import numerics_text, read_results
from clinprompt.experiments.score_sections import (
    ablation_section,
    bracket,
    examples_text,
    few_shot_comparisons,
    few_shot_section,
    main_section,
    missing_text,
    p_phrase,
    published_section,
    spread,
    tested_otherwise,
)
from clinprompt.experiments.significance import RESAMPLES
from clinprompt.experiments.tuning_section import at_edges, budgets, tuning_section
from clinprompt.experiments.worth import worth
from clinprompt.methods.registry import METHODS


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a report, its page among them, and what came out in sentences without markup."""

    page: Path
    files: tuple[Path, ...]
    conclusions: tuple[str, ...]


def report(
    paths: Iterable[Path],
    out: Path,
    *,
    reference: str | None = None,
    backbone: str | None = None,
    suite: str | None = None,
    draw: bool = True,
    resamples: int = RESAMPLES,
) -> Written:
    """Write the report on these results files into the folder `out`.

    The same results give the same files. Raises ResultsError for damaged lines and for results that cannot stand in one
    report.
    """
    files = list(paths)
    board = lay_out(read_results(files), backbone=backbone, suite=suite, reference=reference)
    document = compose(board, draw=draw, resamples=resamples, files=[path.name for path in files])
    out.mkdir(parents=True, exist_ok=True)
    written = {"report.html": to_html(document), "report.md": to_markdown(document)}
    written |= {f"{table.name}.csv": table_csv(table) for table in document.tables}
    written |= {f"{figure.name}.svg": figure.svg for figure in document.figures}
    for name, text in written.items():
        (out / name).write_text(text, encoding="utf-8", newline="")
    spoken = [item for block in document.sections[0].blocks if isinstance(block, Points) for item in block.items]
    return Written(out / "report.html", tuple(out / name for name in written), tuple(plain(s) for s in spoken))


def compose(board: Board, *, draw: bool = True, resamples: int = RESAMPLES, files: Sequence[str] = ()) -> Document:
    """All sections for which there are results."""
    main = compare(board, [m for m in board.main_methods if m != board.reference], resamples=resamples)
    ablated = compare(board, board.ablations, on_targets=False)
    families, held = few_shot_comparisons(board), held_against_constant(board, resamples)
    sections = [
        conclusions(board, main, ablated, families, held),
        main_section(board, main, draw),
        constant_section(held),
        multitask_section(board),
        None if board.together else published_section(board, main),
        few_shot_section(board, families, draw),
        ablation_section(board, ablated, draw),
        cost_section(board, draw),
        worth_section(board, _others(board)),
        tuning_section(board),
        errors_section(board, draw),
        origin_section(board, files),
    ]
    title = f"{', '.join(sorted({_suite_name(c.suite) for c in board.cells}))} on {board.cells[0].backbone}"
    return Document(f"Benchmark: {title}", [s for s in sections if s is not None])


def _suite_name(suite: str) -> str:
    """A suite of one's own without the folders it lies in."""
    return Path(suite).stem if suite.endswith((".yaml", ".yml")) else suite


def _others(board: Board) -> list[str]:
    """Methods that need no metaprompt."""
    return [
        m for m in board.main_methods if m != board.reference and not (m in METHODS and METHODS[m].needs_metaprompt)
    ]


# -- what came out ---------------------------------------------------------------------------------------


def conclusions(
    board: Board,
    main: Sequence[Comparison],
    ablated: Sequence[Comparison],
    families: dict[int, list[Comparison]],
    held: Sequence[Held],
) -> Section:
    """Sentences that follow from the numbers by rule; none says more than its test."""
    points = [missing_text(board), _ranking(board), constant_text(held)]
    points += _sentences(main, f"With {examples_text(board.main_shots)}")
    points += _on_targets(board, main)
    points += _few_shot_sentences(families)
    points += _sentences(ablated, "Ablations")
    points += _payback(board)
    points += _cautions(board)
    return Section("What came out", [Points(tuple(p for p in points if p))])


def _ranking(board: Board) -> str:
    targets = board.complete_targets(board.main_methods)
    averages = [(m, a) for m in board.main_methods if (a := board.average(m, targets)) is not None]
    if not averages:
        return "No target has results of all methods, so there is no common average."
    averages.sort(key=lambda pair: -pair[1].mean)
    shown = ", ".join(f"`{heading(board, m)}` {spread(a)}" for m, a in averages)
    return f"Average over the {len(targets)} targets that all methods have, highest first: {shown}."


def _sentences(comparisons: Sequence[Comparison], where: str) -> list[str]:
    """One sentence for what is significant, one for what is not."""
    if not comparisons:
        return []
    sure = [_significant(c) for c in comparisons if c.significant]
    unsure = [_undecided(c) for c in comparisons if not c.significant]
    reference = comparisons[0].reference
    points = []
    if sure:
        points.append(f"{where}, significant after Holm: " + "; ".join(sure) + ".")
    if unsure:
        points.append(f"{where}, **not significant** after Holm: `{reference}` against " + "; ".join(unsure) + ".")
    return points


def _few_shot_sentences(families: dict[int, list[Comparison]]) -> list[str]:
    """Per other method at which numbers of examples the difference is significant, and how large it is there."""
    others = dict.fromkeys(c.other for family in families.values() for c in family)
    points = []
    for other in others:
        found = [c for family in families.values() for c in family if c.other == other]
        parts = [
            f"{verdict} at k = {', '.join(str(c.shots) for c in chosen)} ({_from_to(chosen)})"
            for verdict, chosen in (
                ("ahead", [c for c in found if c.significant and c.mean.value > 0]),
                ("behind", [c for c in found if c.significant and c.mean.value <= 0]),
                ("**undecided**", [c for c in found if not c.significant]),
            )
            if chosen
        ]
        points.append(
            f"With few examples, after Holm at each k: `{found[0].reference}` against `{other}` is "
            + "; ".join(parts)
            + "."
        )
    return points


def _from_to(comparisons: Sequence[Comparison]) -> str:
    values = [c.mean.value for c in comparisons]
    low, high = (f"{value:+.1f}".replace("-", "−") for value in (min(values), max(values)))
    return f"{low} points" if low == high else f"{low} to {high} points"


def _significant(c: Comparison) -> str:
    ahead, behind = (c.reference, c.other) if c.mean.value > 0 else (c.other, c.reference)
    sign = 1 if c.mean.value > 0 else -1
    low, high = sorted((sign * c.mean.low, sign * c.mean.high))
    strict = (
        "also with each target counted once"
        if c.over_targets_holm < ALPHA
        else f"but not with each target counted once, {p_phrase(c.over_targets_holm)}"
    )
    gain = bracket(abs(c.mean.value), low, high)
    return f"`{ahead}` is ahead of `{behind}` by {gain} points ({p_phrase(c.over_runs_holm)}; {strict})"


def _undecided(c: Comparison) -> str:
    remark = f"; {c.over_runs.remark}" if c.over_runs.remark else ""
    difference = bracket(c.mean.value, c.mean.low, c.mean.high)
    return f"`{c.other}` ({difference} points, {p_phrase(c.over_runs_holm)}{remark})"


def _on_targets(board: Board, main: Sequence[Comparison]) -> list[str]:
    tests = [t for c in main for t in c.on_targets]
    if not tests:
        return []
    better = sum(t.holm < ALPHA and t.difference.value > 0 for t in tests)
    worse = sum(t.holm < ALPHA and t.difference.value < 0 for t in tests)
    return [
        f"On single targets, {len(tests)} pairs of method and target: `{board.reference}` is significantly better in "
        f"{better}, significantly worse in {worse}, undecided in {len(tests) - better - worse}."
    ]


def _payback(board: Board) -> list[str]:
    """By operations, which depend on nothing but the method; seconds also tell what else the machine did meanwhile."""
    found = [w for w in worth(board, _others(board)) if w.unit == "flops"]
    if not found:
        return []
    return [
        "Does the metaprompt pay, counted in operations? "
        + "; ".join(f"against `{w.other}`: {payback(w)}" for w in found)
        + "."
    ]


def _cautions(board: Board) -> list[str]:
    """What a reader must know before believing any of it."""
    found = []
    sampled = [t for t, (n, n_all) in board.samples.items() if n < n_all]
    if sampled:
        found.append(
            f"{len(sampled)} of {len(board.targets)} targets were scored on a fixed sample of their test records."
        )
    if len(set(budgets(board).values())) > 1:
        found.append("The tuning budgets are **not equal**; see Tuning.")
    if edges := at_edges(board):
        found.append(
            f"{len(edges)} of the rows under Tuning **nearly always chose an edge** of what they tried, and may have "
            "more to give."
        )
    single = [m for m in board.main_methods if all(len(board.runs(t, m)) < 2 for t in board.targets)]
    trained = [m for m in single if any(c.trainable for c in board.cells if c.method == m)]
    if trained:
        found.append(f"One run only, so no deviation: {', '.join(f'`{m}`' for m in trained)}.")
    otherwise = tested_otherwise(board)
    if otherwise:
        names = ", ".join(f"`{t}`" for t in otherwise)
        found.append(
            f"The metric of {names} cannot be resampled; the tests on single targets use its records' mean result."
        )
    if board.results.contradictions:
        found.append(
            f"**{len(board.results.contradictions)} cells were computed twice with different results**; the first is "
            f"shown: {', '.join(board.results.contradictions[:5])}."
        )
    return found


def origin_section(board: Board, files: Sequence[str]) -> Section:
    """From which files, versions and machines the numbers come, and how a number is computed again."""

    def distinct(values: Iterable[str]) -> str:
        counts = Counter(value for value in values if value)
        return "; ".join(f"{value} ({count} cells)" if len(counts) > 1 else value for value, count in counts.items())

    rows = [
        ("results", ", ".join(f"`{name}`" for name in files)),
        ("suite", distinct(_suite_name(c.suite) for c in board.cells)),
        ("backbone", distinct(f"{c.backbone} {c.fingerprint}".strip() for c in board.cells)),
        ("clinprompt", distinct(c.library for c in board.cells)),
        ("machine", distinct(c.machine for c in board.cells)),
        ("precision", distinct(numerics_text(found) for c in board.cells if (found := c.settings.get("numerics")))),
        ("seeds", ", ".join(str(s) for s in sorted({c.seed for c in board.cells}))),
    ]
    table = Table("origin", ("what", "value"), tuple(row for row in rows if row[1]), texts=2)
    text = (
        "Each line of the results files holds the settings of its cell; the benchmark run again with them gives the "
        "same cell. The figures beside are vector graphics; the CSV files hold the unrounded numbers."
    )
    return Section("Where the numbers come from", [Paragraph(text), table])
