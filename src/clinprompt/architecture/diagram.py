"""A chosen network as SVG: the cell from embeddings to keys and values, beside each slot what the search weighed."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from clinprompt.architecture.network import Architecture

_BOX, _GAP, _BAR, _LEFT, _SHOWN = (220, 44), 30, 150, 40, 4
_COLOUR, _PALE, _INK = "#2f6690", "#d9e5ee", "#222222"


def cell_svg(
    architecture: Architecture,
    weights: Sequence[Sequence[float]] | None = None,
    candidates: Sequence[str] = (),
    entropies: Sequence[float] = (),
) -> str:
    """The diagram. `weights` (slots, candidates): architecture weights at the end of the search, the largest few drawn
    as bars; `entropies`: their normalised entropy per slot. Without them only the cell is drawn."""
    lengths, width = architecture.length, architecture.width
    boxes = [
        f"embeddings {lengths} × {width}",
        *architecture.operations,
        "+ embeddings",
        "keys and values of every layer",
    ]
    step = _BOX[1] + _GAP + (14 if weights else 0)
    height = 20 + step * len(boxes)
    total = _LEFT + _BOX[0] + (2 * _BAR + 120 if weights else 40)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" viewBox="0 0 {total} {height}" '
        'font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(' → '.join(boxes))}</title>",
        f'<rect width="{total}" height="{height}" fill="white"/>',
    ]
    for index, label in enumerate(boxes):
        top = 10 + index * step
        slot = index - 1 if 0 < index <= len(architecture.operations) else None
        parts += _box(label, top, slot is not None)
        if index + 1 < len(boxes):
            parts.append(_arrow(top + _BOX[1], top + step))
        if slot is not None and weights:
            parts += _bars(weights[slot], candidates, entropies[slot] if entropies else None, top)
    first, last = 10 + _BOX[1] / 2, 10 + (len(boxes) - 2) * step + _BOX[1] / 2
    x = _LEFT - 20
    parts.append(
        f'<path d="M {_LEFT} {first} H {x} V {last} H {_LEFT}" fill="none" stroke="{_INK}" stroke-dasharray="4 3"/>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _box(label: str, top: float, chosen: bool) -> list[str]:
    fill, ink = (_COLOUR, "white") if chosen else (_PALE, _INK)
    middle = _LEFT + _BOX[0] / 2
    return [
        f'<rect x="{_LEFT}" y="{top}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6" fill="{fill}"/>',
        f'<text x="{middle}" y="{top + _BOX[1] / 2 + 5}" text-anchor="middle" fill="{ink}">{escape(label)}</text>',
    ]


def _arrow(begin: float, end: float) -> str:
    x = _LEFT + _BOX[0] / 2
    head = f"M {x - 4} {end - 7} L {x} {end} L {x + 4} {end - 7}"
    return f'<path d="M {x} {begin} V {end} {head}" fill="none" stroke="{_INK}"/>'


def _bars(weights: Sequence[float], candidates: Sequence[str], entropy: float | None, top: float) -> list[str]:
    """The largest weights of a slot, longest first, and how undecided it is."""
    left = _LEFT + _BOX[0] + 20
    order = sorted(range(len(weights)), key=lambda i: -weights[i])[:_SHOWN]
    parts = []
    for row, index in enumerate(order):
        y = top + row * 13
        parts.append(
            f'<rect x="{left}" y="{y}" width="{weights[index] * _BAR:.1f}" height="10" '
            f'fill="{_COLOUR if row == 0 else "#9db4c4"}"/>'
        )
        text = f"{candidates[index]} {weights[index]:.2f}"
        parts.append(f'<text x="{left + _BAR + 8}" y="{y + 9}" font-size="11" fill="{_INK}">{escape(text)}</text>')
    if entropy is not None:
        y = top + len(order) * 13 + 9
        parts.append(f'<text x="{left}" y="{y}" font-size="11" fill="{_INK}">entropy {entropy:.2f} of 1</text>')
    return parts
