"""The scores of slices as one self-contained SVG: points with their intervals, slices that differ filled dark."""

from __future__ import annotations

import math
from html import escape

from clinprompt.upkeep.drift import Drift, SliceScore

STEP, LEFT, TOP, HEIGHT, BELOW = 64, 56, 48, 240, 96  # pixels
QUIET, CHANGED = "#2166ac", "#b35806"  # told apart with every common colour vision deficiency, and in print by shape


def drift_svg(found: Drift, title: str) -> str:
    """A scale of 0 to 100; dashed: the whole corpus. Slices below alpha (Holm) are filled squares, others circles."""
    width, height = LEFT + STEP * len(found.slices) + 16, TOP + HEIGHT + BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="20" font-size="15">{escape(title)}</text>',
        f'<text x="8" y="38">{escape(found.metric)}, 95 % intervals</text>',
    ]
    for tick in range(0, 101, 20):
        parts.append(f'<line x1="{LEFT}" x2="{width - 16}" y1="{_y(tick)}" y2="{_y(tick)}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{_y(tick) + 4}" text-anchor="end">{tick}</text>')
    level = _y(found.score.value)
    parts.append(
        f'<line x1="{LEFT}" x2="{width - 16}" y1="{level}" y2="{level}" stroke="#555555" stroke-dasharray="4"/>'
    )
    for place, one in enumerate(found.slices):
        parts += _point(LEFT + STEP * place + STEP // 2, one, found.alpha)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _y(value: float) -> float:
    return round(TOP + HEIGHT * (1 - min(100.0, max(0.0, value)) / 100), 1)


def _point(x: int, one: SliceScore, alpha: float) -> list[str]:
    changed = one.adjusted_p is not None and one.adjusted_p < alpha
    colour, foot = CHANGED if changed else QUIET, TOP + HEIGHT + 16
    parts = [
        f'<text transform="translate({x + 4},{foot}) rotate(40)">{escape(one.name)} (n={one.n})</text>',
    ]
    if math.isnan(one.score.value):
        return parts
    low, middle, high = (_y(value) for value in (one.score.low, one.score.value, one.score.high))
    mark = (
        f'<rect x="{x - 5}" y="{middle - 5}" width="10" height="10" fill="{colour}"/>'
        if changed
        else f'<circle cx="{x}" cy="{middle}" r="5" fill="white" stroke="{colour}" stroke-width="2"/>'
    )
    said = f"{one.name}: {one.score.value:.1f} [{one.score.low:.1f}, {one.score.high:.1f}], n={one.n}"
    line = f'<line x1="{x}" x2="{x}" y1="{low}" y2="{high}" stroke="{colour}" stroke-width="2"/>'
    return [*parts, f"<g><title>{escape(said)}</title>{line}{mark}</g>"]
