"""The sections of a report about what was spent: costs per target, the metaprompt's price, errors."""

from __future__ import annotations

from collections.abc import Sequence

from clinprompt.experiments import figures
from clinprompt.experiments.board import Board, heading, stat
from clinprompt.experiments.document import Figure, Paragraph, Section, Table
from clinprompt.experiments.results import Cell
from clinprompt.experiments.worth import Saved, Worth, examples_saved, mean_cost, metaprompt_lines, worth

# In the order of the list; what else a task counts comes behind.
ERROR_KINDS = ("missed", "spurious", "boundary", "type", "ungrounded", "malformed")
NO_ERRORS = ("correct",)
SHOWN_IDS = 5


def quantity(value: float | None, unit: str) -> str:
    """1.2e+12 FLOP as 1.2 TFLOP, 4000 bytes as 4.0 KB; an en dash for what was not measured."""
    if value is None:
        return "–"
    if unit == "s":
        return f"{value:,.1f} s" if value < 600 else f"{value / 60:,.1f} min"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K" if unit == "B" else "k")):
        if value >= factor:
            return f"{value / factor:,.1f} {prefix}{unit}"
    return f"{value:,.0f} {unit}"


# -- what a target costs ---------------------------------------------------------------------------------


def cost_section(board: Board, draw: bool) -> Section:
    """Trained numbers, stored bytes, operations, seconds, energy: means over targets and runs."""
    section = Section("What a target costs")
    rows, data = [], []
    for method in (*board.main_methods, *board.ablations):
        targets = [t for t in board.targets if board.runs(t, method)]
        cells = [c for t in targets for c in board.runs(t, method)]
        mean = {
            name: stat([float(getattr(c, name)) for c in cells]).mean
            for name in ("trainable", "trainable_percent", "stored_bytes", "predict_seconds")
        }
        spent = {unit: mean_cost(board, method, unit, targets) for unit in ("flops", "seconds", "joules")}
        per_record = stat([c.predict_seconds / c.n for c in cells]).mean
        rows.append(
            (
                heading(board, method),
                round(mean["trainable"]),
                f"{mean['trainable_percent']:.4f} %",
                quantity(mean["stored_bytes"], "B"),
                quantity(spent["flops"], "FLOP"),
                quantity(spent["seconds"], "s"),
                quantity(spent["joules"], "J"),
                f"{1000 * per_record:,.0f} ms",
            )
        )
        data.append({"method": method, "shots": board.shots_shown(method), "targets": len(targets), **mean, **spent})
    columns = (
        "method",
        "trained numbers",
        "of the model",
        "stored per target",
        "training",
        "training time",
        "energy",
        "answer, per record",
    )
    caption = "Means over targets and runs; training includes all tuning trials. – : the machine does not report it."
    if board.together:
        caption += " One adapter serves all targets: its numbers are whole, all else is a target's equal share."
    section.blocks.append(Table("costs", columns, tuple(rows), caption, tuple(data)))
    svg = figures.parameters(board) if draw else None
    if svg is not None:
        alt = "Average score of each method against the numbers it trains per target, on a logarithmic axis."
        section.blocks.append(Figure("parameters", svg, alt, "Bars: one standard deviation over runs."))
    return section


# -- the metaprompt's price ------------------------------------------------------------------------------


def payback(found: Worth) -> str:
    """Whether and when the metaprompt pays, in one phrase, the score counted in."""
    worse = found.score.value < 0
    sure = found.score.high < 0 or found.score.low > 0  # nan: not sure
    gain = f"{found.score.value:+.1f} points".replace("-", "−") + ("" if sure else ", which may be chance")
    if found.targets is None:
        return f"never: a target costs no less than with {found.other} ({gain})"
    saved = f"after {found.targets:,} targets"
    return f"{saved}, at a lower score ({gain})" if worse else f"{saved} ({gain})"


def worth_section(board: Board, others: Sequence[str]) -> Section | None:
    """After how many targets the metaprompt has paid, and how many examples it saves. None without a metaprompt."""
    lines, rows = metaprompt_lines(board), []
    found = worth(board, others)
    section = Section("What the metaprompt costs, and what it saves")
    if not lines:
        return None
    names = {"seconds": "s", "flops": "FLOP", "joules": "J"}
    for one in found:
        unit = names[one.unit]
        rows.append(
            (
                one.other,
                {"seconds": "time", "flops": "operations", "joules": "energy"}[one.unit],
                quantity(one.learn, unit),
                quantity(one.reference, unit),
                quantity(one.other_cost, unit),
                one.targets if one.targets is not None else "never",
                payback(one),
            )
        )
    sources = sorted({len(line.sources) for line in lines if line.sources})
    about = f" from {' or '.join(str(n) for n in sources)} sources" if sources else ""
    section.blocks.append(
        Paragraph(
            f"Learning the metaprompt{about} is paid once, before the first target. Each further target costs what "
            f"adapting `{board.reference}` costs. It pays in a unit when a target costs less of it than with the other "
            "method, and then only after the number of targets shown."
        )
    )
    if rows:
        columns = (
            "against",
            "counted in",
            "metaprompt, once",
            f"{board.reference}, per target",
            "other, per target",
            "pays after targets",
            "in words",
        )
        data = tuple(
            {
                "other": w.other,
                "unit": w.unit,
                "metaprompt": w.learn,
                "reference_per_target": w.reference,
                "other_per_target": w.other_cost,
                "pays_after_targets": w.targets,
                "score_difference": w.score.value,
                "low": w.score.low,
                "high": w.score.high,
            }
            for w in found
        )
        caption = f"Mean of {len(lines)} metaprompt(s); training and tuning of the targets, prediction not counted."
        section.blocks.append(Table("worth", columns, tuple(rows), caption, data, texts=2, remarks=1))
    saved = examples_saved(board)
    if saved:
        section.blocks.append(_saved_table(board, saved))
    return section


def _saved_table(board: Board, saved: Sequence[Saved]) -> Table:
    rows = []
    for one in saved:
        needs = "none measured is enough" if one.needs is None else ("all" if one.needs == "full" else one.needs)
        rows.append((f"`{one.other}`", one.shots, f"{one.score:.1f}", str(needs)))
    columns = ("other method", f"examples of {board.reference}", "its average", "examples the other needs for that")
    caption = "Examples saved. Averages over the targets both have; among the numbers of examples that were measured."
    return Table("examples-saved", columns, tuple(rows), caption)


# -- errors ----------------------------------------------------------------------------------------------


def errors_section(board: Board, draw: bool) -> Section | None:
    """Per type of task and method the mean number of errors by kind in a run, and ids of records that show them."""
    section = Section("Errors")
    for kind in dict.fromkeys(board.types.values()):
        table = _error_table(board, kind)
        if table is None:
            continue
        section.blocks.append(table)
        kinds = [k for k in table.columns[1:] if k not in NO_ERRORS]
        if draw and len(kinds) > 2:
            counts = {str(row["method"]): {k: float(row[k] or 0) for k in kinds} for row in table.data}
            title = f"{figures.TYPE_NAMES[kind]}: errors in a run over all its test records"
            alt = f"Errors by kind and method for {figures.TYPE_NAMES[kind].lower()}; the table before has the numbers."
            section.blocks.append(Figure(f"errors-{kind}", figures.errors(kinds, counts, title), alt))
    examples = _example_table(board)
    if examples is not None:
        section.blocks.append(examples)
    return section if section.blocks else None


def _error_table(board: Board, kind: str) -> Table | None:
    targets = [t for t in board.complete_targets(board.main_methods) if board.types[t] == kind]
    cells = [c for t in targets for m in board.main_methods for c in board.runs(t, m)]
    present = {name for c in cells for name, count in _errors_of(c).items() if count}
    kinds = [k for k in (*NO_ERRORS, *ERROR_KINDS) if k in present]
    kinds += sorted(present - set(kinds))
    if not kinds:
        return None
    rows, data = [], []
    for method in board.main_methods:
        counts = {
            k: sum(stat([float(_errors_of(c).get(k, 0)) for c in board.runs(t, method)]).mean for t in targets)
            for k in kinds
        }
        rows.append((heading(board, method), *(f"{counts[k]:,.1f}" for k in kinds)))
        data.append({"type": kind, "method": heading(board, method), **counts})
    caption = f"{figures.TYPE_NAMES[kind]}: mean count in a run, summed over {', '.join(f'`{t}`' for t in targets)}."
    return Table(f"errors-{kind}", ("method", *kinds), tuple(rows), caption, tuple(data))


def _errors_of(cell: Cell) -> dict[str, int]:
    """The cell's counts; where a record is right or wrong, also how many are wrong."""
    values = set(cell.per_example)
    wrong = {"wrong": sum(value == 0 for value in cell.per_example)} if values <= {0.0, 1.0} else {}
    return cell.errors | wrong


def _example_table(board: Board) -> Table | None:
    """Records of one run of the reference, by id: no text of a corpus stands in a report."""
    rows = []
    for target in board.targets:
        cells = board.runs(target, board.reference)
        if not cells:
            continue
        cell = cells[0]
        for name, count, ids in _examples(board, cell):
            rows.append((f"`{target}`", name, count, ", ".join(f"`{i}`" for i in ids) or "–"))
    if not rows:
        return None
    caption = (
        f"Records of the first run of `{board.reference}` that show an error, by id; `clinprompt data show` prints a "
        "corpus's records. No text of a record stands in this report. – : not counted by record."
    )
    columns = ("target", "error", "records", "for example")
    return Table("error-examples", columns, tuple(rows), caption, texts=2, remarks=1)


def _examples(board: Board, cell: Cell) -> list[tuple[str, int | None, tuple[str, ...]]]:
    """(kind, number of records that show it, some ids): what the cell names, and what its records' results say."""
    known = board.results.test_sets.get(cell.test_set)
    ids = known.ids if known is not None else ()
    found: dict[str, tuple[int | None, tuple[str, ...]]] = {
        kind: (len(hit), tuple(ids[i] for i in hit[:SHOWN_IDS] if i < len(ids))) for kind, hit in _shows(cell).items()
    }
    for kind, named in cell.error_records.items():
        found[kind] = (found.get(kind, (None, ()))[0], named[:SHOWN_IDS])
    return [(kind, *found[kind]) for kind in sorted(found, key=_error_order) if kind not in NO_ERRORS]


def _error_order(kind: str) -> tuple[int, str]:
    return (ERROR_KINDS.index(kind) if kind in ERROR_KINDS else len(ERROR_KINDS), kind)


def _shows(cell: Cell) -> dict[str, list[int]]:
    """Kind of error → the places of the records that show it, as far as their results tell: of counts, that something
    was missed, or named that is not in gold; of scores, that nothing was right."""
    places: dict[str, list[int]] = {}
    for place, value in enumerate(cell.per_example):
        wrong = {"missed": value[2], "spurious": value[1]} if isinstance(value, tuple) else {"wrong": value == 0}
        for kind in (kind for kind, there in wrong.items() if there):
            places.setdefault(kind, []).append(place)
    return places
