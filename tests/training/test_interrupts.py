"""Ctrl-C waits for the end of a block; a second one does not."""

from __future__ import annotations

import signal
import threading

import pytest

from clinprompt.training.interrupts import undivided


def test_ctrl_c_takes_effect_at_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), undivided():
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), undivided():
        signal.raise_signal(signal.SIGINT)
        done.append(1)
        signal.raise_signal(signal.SIGINT)
        done.append(2)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_within_the_block_does_not_swallow_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, undivided():
        signal.raise_signal(signal.SIGINT)
        raise ValueError
    assert isinstance(caught.value.__context__, ValueError)


def test_nothing_changes_without_ctrl_c_in_other_threads_or_where_it_is_ignored() -> None:
    seen = []

    def within() -> None:
        with undivided():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        within()
    finally:
        signal.signal(signal.SIGINT, former)
    assert seen[1:] == [signal.SIG_IGN]
