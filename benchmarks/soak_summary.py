"""What a soak came to: counts, memory over time, and the list of what is wrong (empty: nothing)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.soak_clients import Soak

GROWTH = 0.05
POINTS = 60  # of the memory curve that is kept


def gauges(metrics: str) -> dict[str, int]:
    """Questions running, waiting and held, from the metrics page."""
    return {name: int(_value(metrics, f"clinprompt_{name}")) for name in ("running", "waiting", "held")}


def _value(metrics: str, name: str) -> float:
    return float(metrics.split(f"\n{name} ")[1].split("\n")[0])


def summary(
    soak: Soak, memory: Sequence[int], metrics: str, held: dict[str, int], rounds: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The report. `held`: what the server still held when all clients were gone."""
    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[quarter : 2 * quarter] or memory), statistics.median(memory[-quarter:])
    found = {
        "requests": dict(sorted(soak.statuses.items())),
        "answers_compared": soak.compared,
        "wrong": len(soak.wrong),
        "wrong_first": soak.wrong[:5],
        "unexpected": soak.unexpected[:10],
        "median_seconds": round(statistics.median(soak.seconds), 3) if soak.seconds else None,
        "memory_mb": [round(early / 1e6, 1), round(late / 1e6, 1)],
        "memory_growth": round(late / early - 1, 4),
        "memory_curve_mb": [round(value / 1e6, 1) for value in memory[:: max(1, len(memory) // POINTS)]],
        "held_at_end": held,
        "defects": int(_value(metrics, "clinprompt_defects_total")),
        "schemathesis": {
            "rounds": len(rounds),
            "cases": sum(one["cases"] for one in rounds),
            "failed": _failed(rounds),
        },
    }
    return found | {"problems": _problems(found)}


def _failed(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in rounds if one["exit_code"] or one["failures"] or one["errors"]]


def _problems(found: dict[str, Any]) -> list[str]:
    said = {
        "no answer was compared": not found["answers_compared"],
        f"{found['wrong']} answers differ from the offline ones": found["wrong"],
        "clients met what they should not": found["unexpected"],
        f"memory grew by {found['memory_growth']:.1%}": found["memory_growth"] > GROWTH,
        "places were not given back": any(found["held_at_end"].values()),
        f"{found['defects']} defects": found["defects"],
        "schemathesis ran no case": not found["schemathesis"]["cases"],
        "schemathesis found something": found["schemathesis"]["failed"],
    }
    return [text for text, true in said.items() if true]
