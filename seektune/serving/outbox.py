"""What the engine gave a request and its reader has not taken yet: from the engine's thread to a loop."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

from seektune.generation.request import Output
from seektune.serving.refusal import Refusal


class Outbox:
    """Outputs of one request; those that wait join into one: a slow reader holds its own answer, no more.

    `put` and `fail` are called by the engine's thread, `take` and `rest` by the loop it was made in.
    """

    def __init__(self, request_id: str, model: str, max_backlog: int) -> None:
        self.id = request_id
        self.model = model  # the name its metrics go under
        self.began = time.monotonic()
        self.answered = False  # a token has come
        self._max_backlog = max_backlog
        self._lock = threading.Lock()
        self._waiting: Output | None = None
        self._error: Refusal | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()

    def put(self, output: Output) -> bool:
        """Hand over an output; False where the reader is so far behind that the request is to be given up."""
        with self._lock:
            waiting = self._waiting
            self._waiting = output if waiting is None else joined(waiting, output)
            behind = len(self._waiting.tokens) > self._max_backlog and output.finish_reason is None
        if behind:
            self.fail(Refusal(f"the reader is more than {self._max_backlog} tokens behind", 408))
        elif waiting is None:
            self._wake()
        return not behind

    def fail(self, error: Refusal) -> None:
        """End the answer; what was put before is dropped."""
        with self._lock:
            self._waiting, self._error = None, error
        self._wake()

    async def take(self) -> Output:
        """All that came since the last call, once there is any. Raises Refusal where the answer failed."""
        await self._ready.wait()
        with self._lock:
            self._ready.clear()
            if self._error is not None:
                raise self._error
            output, self._waiting = self._waiting, None
        assert output is not None
        return output

    async def rest(self) -> Output:
        """All that is still to come, up to the end of the answer, as one output."""
        whole = await self.take()
        while whole.finish_reason is None:
            whole = joined(whole, await self.take())
        return whole

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop is closed: nobody reads any more
            return


def joined(first: Output, then: Output) -> Output:
    """Two outputs of one request, in order, as one."""
    return replace(
        then,
        tokens=first.tokens + then.tokens,
        text=first.text + then.text,
        logprobs=first.logprobs + then.logprobs,
    )
