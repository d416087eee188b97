"""Ctrl-C and SIGTERM as a request to come to an end in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruption() -> Iterator[Sequence[int]]:
    """The signals that asked for an end within the block, empty until one does; the second one kills.

    Where signals cannot be caught, outside the main thread, they do what they always do.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)
        for each in SIGNALS:
            signal.signal(each, before[each])
        # Not print: it may have been interrupted itself.
        os.write(2, b"\nstopping: this step will be finished and saved; once more stops at once\n")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in SIGNALS:
            signal.signal(number, before[number])
