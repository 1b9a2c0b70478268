"""The report's figures as SVG: colours of Okabe & Ito (2008), and a marker and line style of its own for every method,
so that they read in greyscale print. The same results give the same file."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from clinprompt.errors import ResultsError
from clinprompt.experiments.board import Board, stat
from clinprompt.experiments.comparisons import ALPHA, Comparison
from clinprompt.tasks.definition import TASK_TYPES

TYPE_NAMES = {
    "ner": "Entities",
    "relation": "Relations",
    "qa": "Question answering",
    "nli": "Inference",
    "summarization": "Summarization",
}
# Okabe & Ito without yellow, which is too light for lines on paper; the reference method is black.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
_DASHES: tuple[Any, ...] = ((5, 2), (1, 1.2), (5, 1.5, 1, 1.5), (3, 1), (7, 2, 1, 2, 1, 2), (2, 2), (8, 3))
_STYLE: Any = {
    "svg.hashsalt": "clinprompt",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.09,
}


@contextmanager
def _canvas(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> Iterator[tuple[Any, Any]]:
    """A figure (inches) and its axes, laid out when the block ends; no window, no state left behind."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise ResultsError(
            "report", None, "figures need matplotlib: pip install 'clinprompt[plots]'.", "Or give --no-figures."
        ) from None
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's own configuration says
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **more)


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    # Text stays text; where that font is not installed, one of the same proportions stands in.
    return text[text.index("<svg") :].replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def styles(methods: Sequence[str], reference: str) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each method; the reference is a black solid line with circles."""
    others = [m for m in methods if m != reference]
    found: dict[str, dict[str, Any]] = {reference: {"color": "#000000", "marker": "o", "linestyle": "-"}}
    for i, method in enumerate(others):
        found[method] = {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": (0, _DASHES[i % len(_DASHES)]),
        }
    return found


def _clean(limits: tuple[float, float]) -> tuple[float, float]:
    """Scores start at 0 when they come near it."""
    low, high = limits
    return (min(0.0, low) if low < 15 else low, high)


def few_shot(board: Board) -> str | None:
    """One panel per task type: the average over its targets against the number of examples, bands of one standard
    deviation over draws. Of a type only targets count that all few-shot methods have; where some are left out, the
    panel names the others. None if there is no such target."""
    methods, shared = board.few_shot_methods, board.few_shot_targets
    kinds = [kind for kind in TASK_TYPES if kind in {board.types[t] for t in shared}]
    if not kinds:
        return None
    columns = min(len(kinds), 3)
    rows = math.ceil(len(kinds) / columns)
    how = styles(tuple(dict.fromkeys((*board.main_methods, *board.ablations, *board.methods))), board.reference)
    with _canvas(3.1 * columns + 0.4, 2.5 * rows + 0.5, rows, columns) as (figure, axes):
        flat = [axis for row in axes for axis in row]
        for axis, kind in zip(flat, kinds, strict=False):
            of_type = [t for t, found in board.types.items() if found == kind]
            targets = [t for t in of_type if t in shared]
            for method in methods:
                _curve(axis, board, method, targets, how[method])
            named = "" if targets == of_type else f": {', '.join(targets)}"
            axis.set_title(TYPE_NAMES[kind] + named, loc="left")
            axis.set_xscale("symlog", linthresh=1, linscale=0.6)
            axis.set_xticks(board.few_shots, [str(k) for k in board.few_shots])
            axis.minorticks_off()
            axis.set_xlim(-0.15, max(board.few_shots) * 1.15)
            axis.set_ylim(*_clean(axis.get_ylim()))
            axis.set_xlabel("training examples k")
            axis.set_ylabel(", ".join(dict.fromkeys(metric_name(board.headlines[t]) for t in targets)))
        for axis in flat[len(kinds) :]:
            axis.set_axis_off()
        handles = {label: h for axis in flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        shown = [m for m in methods if m in handles]
        if len(flat) > len(kinds):
            flat[-1].legend([handles[m] for m in shown], shown, loc="center left", handlelength=4, fontsize=10)
        else:
            figure.legend([handles[m] for m in shown], shown, loc="outside lower center", ncols=6, handlelength=4)
        return _svg(figure)


def _curve(axis: Any, board: Board, method: str, targets: Sequence[str], how: Mapping[str, Any]) -> None:
    points = []
    for k in board.few_shots:
        have = [t for t in targets if board.scores(t, method, k)]
        average = board.average(method, have, k) if len(have) == len(targets) else None
        if average is not None:
            points.append((k, average.mean, 0.0 if math.isnan(average.sd) else average.sd))
    if not points:
        return
    xs, means, deviations = zip(*points, strict=True)
    axis.plot(xs, means, label=method, markersize=5, linewidth=1.4, **how)
    low = [m - d for m, d in zip(means, deviations, strict=True)]
    high = [m + d for m, d in zip(means, deviations, strict=True)]
    axis.fill_between(xs, low, high, color=how["color"], alpha=0.16, linewidth=0)


def metric_name(name: str) -> str:
    """A metric as an axis calls it."""
    known = {"strict_f1": "strict F1", "accuracy": "accuracy (%)", "rougeL": "ROUGE-L", "macro_f1": "macro-F1"}
    return known.get(name, name)


def parameters(board: Board) -> str | None:
    """Average score against trained numbers (log). Methods that train nothing are lines, as they have no place on a
    log axis. None if no method has a score on every target that the methods share."""
    targets = board.complete_targets(board.main_methods)
    how = styles(tuple(dict.fromkeys((*board.main_methods, *board.ablations, *board.methods))), board.reference)
    places = []
    for method in board.main_methods:
        average = board.average(method, targets)
        trained = stat([float(c.trainable) for t in targets for c in board.runs(t, method)]).mean
        if average is not None:
            places.append((method, trained, average))
    if not places:
        return None
    with _canvas(6.2, 3.9) as (figure, axes):
        axis = axes[0][0]
        trained_ones = [place for place in places if place[1] > 0]
        for method, x, average in trained_ones:
            deviation = 0.0 if math.isnan(average.sd) else average.sd
            mark = {"color": how[method]["color"], "marker": how[method]["marker"], "linestyle": "none"}
            axis.errorbar(x, average.mean, deviation, capsize=3, markersize=7, linewidth=1.2, label=method, **mark)
        for method, trained, average in places:
            if trained == 0:
                line = {"color": how[method]["color"], "linestyle": how[method]["linestyle"]}
                axis.axhline(average.mean, linewidth=1.2, label=f"{method} (trains nothing)", **line)
        axis.set_xscale("log")
        axis.set_xlabel("trained numbers per target (log)")
        axis.set_ylabel(f"average score over {len(targets)} targets")
        axis.margins(x=0.1, y=0.15)
        figure.legend(loc="outside right upper", handlelength=3)
        return _svg(figure)


def forest(comparisons: Sequence[Comparison], reference: str) -> str | None:
    """Mean difference of the reference to each method with its interval; filled where significant after Holm."""
    if not comparisons:
        return None
    with _canvas(6.2, 0.34 * len(comparisons) + 1.0) as (figure, axes):
        axis = axes[0][0]
        for row, c in enumerate(comparisons):
            if not math.isnan(c.mean.low):
                axis.plot([c.mean.low, c.mean.high], [row, row], color="#000000", linewidth=1.3)
            fill = "#0072B2" if c.over_runs_holm < ALPHA else "white"
            axis.plot([c.mean.value], [row], "o", markersize=7, markerfacecolor=fill, markeredgecolor="#000000")
        axis.axvline(0, color="#000000", linewidth=0.8, dashes=(4, 3))
        axis.set_yticks(range(len(comparisons)), [f"{reference} − {c.other}" for c in comparisons])
        axis.set_ylim(len(comparisons) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("difference in points (filled: p < .05 after Holm)")
        return _svg(figure)


def errors(kinds: Sequence[str], counts: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Stacked bars, a row per method, a shade and a hatch per kind of error."""
    hatches = ("", "//", "--", "\\\\", "xx", "||", "++")
    with _canvas(6.6, 0.34 * len(counts) + 1.15) as (figure, axes):
        axis = axes[0][0]
        names = list(counts)
        left = [0.0] * len(names)
        for i, kind in enumerate(kinds):
            widths = [counts[name].get(kind, 0.0) for name in names]
            colour = ("#0072B2", *_COLOURS[0:1], *_COLOURS[2:])[i % 7]
            axis.barh(
                range(len(names)), widths, 0.7, left, color=colour, hatch=hatches[i % 7], edgecolor="white", label=kind
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(title)
        figure.legend(loc="outside upper center", ncols=len(kinds), handlelength=1.6)
        return _svg(figure)
