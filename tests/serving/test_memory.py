"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clinprompt.serving.memory import give_back

FRAGMENTED = """
from pathlib import Path
from clinprompt.serving.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [b"x" * 100_000 for _ in range(2_000)]
blocks = blocks[::100]  # the others are free; these lie among them, the last one near the top
before = resident()
assert give_back()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or not give_back(), reason="glibc only")
def test_free_pages_between_used_blocks_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150_000_000
