"""Ctrl-C between steps, never within one: a state that is saved on the way out is that of whole steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def undivided() -> Iterator[None]:
    """Ctrl-C (SIGINT) within the block takes effect at its end; a second one at once.

    Outside the main thread, and where the signal is ignored, nothing changes.
    """
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def later(number: int, frame: FrameType | None) -> None:
        if came:
            came.clear()
            signal.signal(signal.SIGINT, former)
            former(number, frame)
        else:
            came.append((number, frame))

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        if came:
            former(*came[0])
