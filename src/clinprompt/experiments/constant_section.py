"""The section of a report that holds every method against one constant answer: on which targets does reading show?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinprompt.experiments.board import Board
from clinprompt.experiments.comparisons import ALPHA, compare
from clinprompt.experiments.document import Paragraph, Section, Table
from clinprompt.experiments.protocol import CONSTANT
from clinprompt.experiments.score_sections import spread

EXPLAINED = (
    f"`{CONSTANT}` gives every question the one answer that scores best on the training examples; it asks no model. "
    "Paired bootstrap over test records, Holm over all pairs of this table. A method that is not ahead may have "
    "learned which answers are usual, and a difference between two such methods says little about reading."
)


@dataclass(frozen=True)
class Held:
    """One target: the constant's score as shown, and the methods that are significantly ahead of it and behind."""

    target: str
    constant: str
    ahead: tuple[str, ...]
    behind: tuple[str, ...]


def held_against_constant(board: Board, resamples: int) -> list[Held]:
    """Every target that has a constant answer in the main table; none if no target has."""
    if CONSTANT not in board.main_methods:
        return []
    others = [m for m in board.main_methods if m != CONSTANT]
    compared = compare(replace(board, reference=CONSTANT), others, resamples=resamples)
    tests = [(c.other, test) for c in compared for test in c.on_targets]
    return [
        Held(
            target,
            spread(board.average(CONSTANT, [target])),
            tuple(m for m, t in tests if t.target == target and t.holm < ALPHA and t.difference.value < 0),
            tuple(m for m, t in tests if t.target == target and t.holm < ALPHA and t.difference.value > 0),
        )
        for target in board.targets
        if board.runs(target, CONSTANT)
    ]


def constant_text(held: Sequence[Held]) -> str:
    """One sentence for what came out; empty without a constant answer."""
    if not held:
        return ""
    read = [h.target for h in held if h.ahead]
    shown = f": {', '.join(f'`{target}`' for target in read)}" if read else ""
    return (
        f"**Against one constant answer** (`{CONSTANT}`, which reads nothing) some method is significantly ahead on "
        f"{len(read)} of {len(held)} targets{shown}."
    )


def constant_section(held: Sequence[Held]) -> Section | None:
    """The table; None without a constant answer."""
    if not held:
        return None
    columns = ("target", "constant answer", "significantly ahead of it", "significantly behind it")
    rows = tuple((f"`{h.target}`", h.constant, _names(h.ahead), _names(h.behind)) for h in held)
    return Section("Against a constant answer", [Paragraph(EXPLAINED), Table("constant", columns, rows, texts=4)])


def _names(methods: Sequence[str]) -> str:
    return ", ".join(f"`{method}`" for method in methods) or "–"
