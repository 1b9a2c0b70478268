"""Runs a program that must not outlive who started it: `python guard.py LOG PROGRAM ARGUMENT…`.

When standard input ends (the starter closed it, or is gone, killed even) the program is asked to end and then ended,
with the processes it started. What it prints goes to the file LOG (may be empty: nowhere); its last lines are printed
when it has ended. Its exit code is this program's. Run it in a session of its own: it signals its whole group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import FrameType

GRACE = 20.0  # seconds between asking and ending
LINES, WIDTH = 20, 400  # of what is printed at the end


def main(log: str, command: list[str]) -> int:
    """Run the command under guard; returns its exit code. It may only be the main program of its own session."""
    # A handler, not SIG_IGN: the program would inherit the latter.
    signal.signal(signal.SIGTERM, _nothing)
    last: deque[bytes] = deque(maxlen=LINES)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    reader = threading.Thread(target=_keep, args=(child, log or os.devnull, last), daemon=True)
    reader.start()
    threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
    code = child.wait()
    os.killpg(os.getpgrp(), signal.SIGTERM)  # what it started and left behind
    reader.join(GRACE)
    sys.stdout.buffer.write(b"".join(last))
    sys.stdout.flush()
    if reader.is_alive():  # somebody still holds its output
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _keep(child: subprocess.Popen[bytes], log: str, last: deque[bytes]) -> None:
    assert child.stdout is not None
    with Path(log).open("ab", buffering=0) as sink:
        for line in child.stdout:
            sink.write(line)
            last.append(line if len(line) <= WIDTH else line[:WIDTH] + b"...\n")


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):  # nothing is written to it
        pass
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
