"""Freed memory goes back to the system.

A pass over the model takes and frees blocks of some megabytes. glibc's malloc keeps what was freed for the next time,
and where a small block that is still in use lies above, it keeps it for ever: the server's resident memory then
follows its busiest moment, not what it holds. Asked to, it gives whole free pages back, wherever they lie.
"""

from __future__ import annotations

import ctypes
import sys

SECONDS = 20.0
"""How often the server asks. Our choice: it takes milliseconds, and the pages must be fetched anew when needed."""


def give_back() -> bool:
    """Give free pages back to the system; False where the C library has no way to (others than glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return False
    trim(0)
    return True
