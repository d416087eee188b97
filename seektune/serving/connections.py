"""One connection: how long it may take to say what it wants, and what it hears when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from seektune.serving.auth import response_of
from seektune.serving.metrics import Metrics
from seektune.serving.refusal import Refusal

_ALWAYS = ("/health", "/ready")  # whoever watches the server is answered however full it is


def protocol_of(most: int, header_timeout: float, metrics: Metrics) -> Callable[..., H11Protocol]:
    """uvicorn's protocol for at most `most` connections at a time, each given so many seconds for headers."""
    return partial(_Connection, most=most, header_timeout=header_timeout, metrics=metrics)


class _Connection(H11Protocol):
    """uvicorn waits for ever for the headers of a call, and turns away what is too much without a reason."""

    def __init__(
        self, *arguments: Any, most: int, header_timeout: float, metrics: Metrics, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._most, self._header_timeout, self._metrics = most, header_timeout, metrics
        self._waiting: asyncio.TimerHandle | None = None  # runs while the headers of no call are complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self.app = _Full(self.app, self._most, self._metrics)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which may begin with a call that has come already
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Let the time run exactly as long as no call is under way: more bytes are no more time."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_longer()
        elif self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self._header_timeout, self.transport.close)

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _Full:
    """What answers on a connection beyond the last one."""

    def __init__(self, app: ASGIApp, most: int, metrics: Metrics) -> None:
        self._app, self._most, self._metrics = app, most, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks."""
        if scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        self._metrics.refused(503)
        refusal = Refusal(
            f"{self._most} connections are open, the most that are served: try again",
            503,
            headers={"Retry-After": "1", "Connection": "close"},
        )
        await response_of(refusal)(scope, receive, send)
