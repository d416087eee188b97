"""The engine's own thread: commands in between two steps, outputs to each request's outbox."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from seektune.errors import SeektuneError
from seektune.generation.engine import Engine
from seektune.generation.request import Output, Request
from seektune.serving.metrics import Metrics
from seektune.serving.outbox import Outbox
from seektune.serving.refusal import Refusal

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Worker:
    """Owns the engine from `start` to `stop`; everything else reaches it through commands.

    A command is a function that the engine's thread calls between two steps. A step that fails ends the
    requests that took part in it; those that wait go on.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self.stats = engine.stats  # as of the last step
        self._engine = engine
        self._metrics = metrics
        self._commands: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._outboxes: dict[str, Outbox] = {}
        self._ending = False
        self._closed = False  # no command is taken any more
        self._closing = threading.Lock()  # guards _closed
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes commands."""
        return self._thread.is_alive() and not self._ending

    def start(self) -> None:
        """Begin to take commands and to step."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """End: what is under way fails with a reason, and the thread is waited for."""
        self._command(self._end)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """What `work()` gives or raises, called by the engine's thread between two steps.

        It stands in the queue when this returns.
        """
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        if not self._command(command):
            raise _shutting_down()
        return asyncio.wrap_future(future)

    def submit(self, requests: Sequence[Request], outboxes: Sequence[Outbox]) -> Awaitable[None]:
        """Put requests in the queue; awaited, it says that the engine took them, all or none.

        Raises what the engine raises for one that cannot be answered.
        """
        return self._accepted(self.call(lambda: self._accept(requests, outboxes)), outboxes)

    def send(self, work: Callable[[], Any]) -> None:
        """Put `work` in the queue and wait for nothing; once the thread has ended it is dropped."""
        self._command(work)

    def cancel(self, outboxes: Sequence[Outbox]) -> None:
        """Give up requests; those that have ended already are passed over."""
        self._command(lambda: self._cancel(outboxes))

    def _command(self, command: Callable[[], Any]) -> bool:
        with self._closing:
            if not self._closed:
                self._commands.put(command)
            return not self._closed

    async def _accepted(self, answer: asyncio.Future[None], outboxes: Sequence[Outbox]) -> None:
        try:
            await answer
        except asyncio.CancelledError:  # the caller left, perhaps when they were taken already
            self.cancel(outboxes)
            raise

    def _accept(self, requests: Sequence[Request], outboxes: Sequence[Outbox]) -> None:
        if self._ending:
            raise _shutting_down()
        try:
            for request, outbox in zip(requests, outboxes, strict=True):
                self._engine.submit(request)
                self._outboxes[request.id] = outbox
        except BaseException:
            self._cancel(outboxes)
            raise

    def _cancel(self, outboxes: Sequence[Outbox]) -> None:
        for outbox in outboxes:
            if self._outboxes.pop(outbox.id, None):
                self._engine.cancel(outbox.id)
                self._metrics.ended(outbox.model, "cancelled")

    def _run(self) -> None:
        while not self._ending:
            self._obey(wait=not self._engine.has_work)
            if self._engine.has_work and not self._ending:
                self._step()
            self.stats = self._engine.stats
        with self._closing:
            self._closed = True
        self._obey(wait=False)  # whoever waits for a command is told, not left waiting

    def _obey(self, wait: bool) -> None:
        try:
            while True:
                command = self._commands.get(block=wait)
                try:
                    command()
                except Exception:  # nobody waits for it, and everybody for the thread
                    _log.exception("a command to the engine failed")
                wait = False
        except queue.Empty:
            return

    def _step(self) -> None:
        began = time.perf_counter()
        try:
            outputs = self._engine.step()
        except Exception as error:
            _log.exception("a step of the engine failed")
            self._fail(error)
            return
        self._metrics.stepped(time.perf_counter() - began, len(outputs))
        for output in outputs:
            self._deliver(output)

    def _deliver(self, output: Output) -> None:
        outbox = self._outboxes.get(output.id)
        if outbox is None:  # given up meanwhile
            return
        if output.tokens:
            self._metrics.generated(outbox, output)
        if output.finish_reason is not None:
            del self._outboxes[output.id]
            self._metrics.answered(outbox, output)
        if output.error is not None:
            outbox.fail(Refusal(output.error, 500))
        elif not outbox.put(output):
            self._cancel([outbox])

    def _fail(self, error: Exception) -> None:
        """End what took part in a step that failed; what waits did not."""
        reason = str(error) if isinstance(error, SeektuneError) else f"{type(error).__name__}, see its log"
        waiting = self._engine.waiting
        for outbox in [outbox for key, outbox in self._outboxes.items() if key not in waiting]:
            del self._outboxes[outbox.id]
            self._engine.cancel(outbox.id)
            self._metrics.ended(outbox.model, "error")
            outbox.fail(Refusal(f"the engine failed in this answer: {reason}", 500))

    def _end(self) -> None:
        self._ending = True
        for outbox in list(self._outboxes.values()):
            outbox.fail(Refusal("the server was shut down before the answer was complete", 503))
        self._cancel(list(self._outboxes.values()))


def _shutting_down() -> Refusal:
    return Refusal("the server is shutting down", 503, headers={"Retry-After": "1"})
