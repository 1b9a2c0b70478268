"""How many questions the server holds at once; who comes later is told when to come again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from clinprompt.serving.engine import EngineBusy


class Admission:
    """Counts questions that were accepted and are not answered. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._rate = 0.0  # questions a second, smoothed

    @contextmanager
    def hold(self, questions: int) -> Iterator[None]:
        """Take places for all questions of a request or none. Raises EngineBusy with the time to wait."""
        if self.held + questions > self.capacity and self.held:
            raise EngineBusy(self.wait())
        self.held += questions
        started = time.monotonic()
        try:
            yield
        finally:
            self.held -= questions
            rate = questions / max(time.monotonic() - started, 1e-3)
            self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate

    def wait(self) -> float:
        """Seconds after which half of what is held should be answered, between 1 and 60."""
        return min(60.0, max(1.0, self.held / 2 / self._rate)) if self._rate else 1.0
