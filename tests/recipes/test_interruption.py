"""Signals become requests; the second one does what it always did."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from seektune.recipes.interruption import SIGNALS, interruption


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_once_and_the_second_one_stops_at_once(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(number, stopped)
    try:
        with interruption() as asked:
            assert not asked
            os.kill(os.getpid(), number)
            assert asked == [number]
            with pytest.raises(InterruptedError):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is stopped
    finally:
        signal.signal(number, before)
    assert capfd.readouterr().err.count("finished and saved") == 1


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interruption():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_nothing_is_caught() -> None:
    before, within = [signal.getsignal(number) for number in SIGNALS], []

    def enter() -> None:
        with interruption():
            within.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert within == before
