"""Shared fixtures. Real corpora are used where they are, and their absence is said aloud."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Started in the background of a shell, pytest inherits that Ctrl-C is ignored; tests of it need Python's own handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The suite gives the same answer twice; HYPOTHESIS_PROFILE=explore looks for new counter-examples.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def corpora_folder() -> Path | None:
    """`CLINPROMPT_DATA`, else `shared/data` beside the checkout, else None."""
    if named := os.environ.get("CLINPROMPT_DATA"):
        return Path(named)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = corpora_folder()
    if folder is None or not folder.is_dir():
        pytest.skip("needs the public corpora: set CLINPROMPT_DATA to a folder laid out as <root>/<task id>/<path>")
    return folder
