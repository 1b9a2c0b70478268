"""Energy as the machine reports it: Intel's and AMD's RAPL counters of whole packages (Linux powercap).

Everything that runs on the package is counted, not this process alone; on most systems only root may read it.
"""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules since it was made; None where the machine does not tell."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages = [path for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._before = [_read(path / "energy_uj") for path in self._packages]

    def joules(self) -> float | None:
        """Energy of all packages; a counter that started anew in between is corrected by its range."""
        if not self._packages or any(value is None for value in self._before):
            return None
        total = 0
        for path, before in zip(self._packages, self._before, strict=True):
            now = _read(path / "energy_uj")
            if now is None or before is None:
                return None
            total += now - before + (0 if now >= before else (_read(path / "max_energy_range_uj") or 0))
        return total / 1e6


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
