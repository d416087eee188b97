"""Ctrl-C and SIGTERM as a request to come to an end in order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruption(grace: float = 0.0, told: bool = True) -> Iterator[Sequence[int]]:
    """The signals that asked for an end within the block, empty until one does; the second one kills.

    What comes within `grace` seconds of the first is the same request: a launcher passes on the Ctrl-C that
    its processes have received already. `told` says whether this process answers on the terminal. Where
    signals cannot be caught, outside the main thread, they do what they always do.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    asked_at: list[float] = []

    def note(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if asked:
            if now - asked_at[0] >= grace:
                for each in SIGNALS:
                    signal.signal(each, before[each])
                signal.raise_signal(number)
            return
        asked.append(number)
        asked_at.append(now)
        if told:  # not print: it may have been interrupted itself
            os.write(2, b"\nstopping: this step will be finished and saved; once more stops at once\n")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in SIGNALS:
            signal.signal(number, before[number])
