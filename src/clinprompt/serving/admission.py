"""How many questions the server holds at once; who comes later is told when to come again."""

from __future__ import annotations

from clinprompt.serving.engine import EngineBusy
from clinprompt.serving.problems import TooLarge


class Admission:
    """Counts questions that were accepted and are not answered. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._rate = 0.0  # questions a second of one request, smoothed

    def take(self, questions: int) -> None:
        """Take places for all questions of a request or none. Raises EngineBusy with the time to wait; TooLarge for
        more questions than there are places, for which no waiting helps."""
        if questions > self.capacity:
            raise TooLarge(
                f"this request comes to {questions} questions and this server holds {self.capacity} at once "
                "(--max-queue); send less at once."
            )
        if self.held + questions > self.capacity:
            raise EngineBusy(self.wait())
        self.held += questions

    def give(self, questions: int, seconds: float) -> None:
        """Give places back after `seconds`."""
        self.held -= questions
        rate = questions / max(seconds, 1e-3)
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate

    def wait(self) -> float:
        """Seconds until half of what is held may be answered, between 1 and 60."""
        return min(60.0, max(1.0, self.held / 2 / self._rate)) if self._rate else 1.0
