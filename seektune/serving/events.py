"""Answers as server-sent events while they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from seektune.generation.request import Output
from seektune.serving.answers import Reply
from seektune.serving.outbox import Outbox
from seektune.serving.refusal import Refusal, timed_out

_GRACE = 5.0  # seconds after the deadline in which the reader may still take what was written


class EventStream(StreamingResponse):
    """A stream that calls `close` once, however it ends, and is cut off when its reader stands still."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], close: Callable[[], None], deadline: float
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events, self._close, self._deadline = events, close, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks."""
        try:
            with suppress(TimeoutError):  # a reader that stands still hears no reason
                async with asyncio.timeout_at(self._deadline + _GRACE):
                    await super().__call__(scope, receive, send)
        finally:
            self._close()
            await self._events.aclose()


async def events(
    reply: Reply, outboxes: Sequence[Outbox], n: int, deadline: float, *, wants_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Chunks of all choices as they come, then usage if wanted; one that fails ends all with an error."""
    length, last = [0] * len(outboxes), [Output(id="")] * len(outboxes)
    more: dict[str, Any] = {"usage": None} if wants_usage else {}
    pieces = _merged(outboxes, deadline)
    try:
        async for index, output in pieces:
            first = not last[index].id
            if first or output.text or output.logprobs or output.finish_reason:
                yield _event(reply.chunk(index, output, first, length[index]) | more)
            length[index] += reply.width(output.logprobs)
            last[index] = output
        if wants_usage:
            yield _event(reply.last_chunk(last, n))
        yield b"data: [DONE]\n\n"
    except Refusal as refusal:
        yield _event(refusal.to_json())
    finally:
        await pieces.aclose()


async def _merged(outboxes: Sequence[Outbox], deadline: float) -> AsyncGenerator[tuple[int, Output], None]:
    """What comes to any of the outboxes, with its index, until all have ended."""
    takes = {asyncio.ensure_future(outbox.take()): index for index, outbox in enumerate(outboxes)}
    try:
        while takes:
            left = deadline - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait(takes, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise timed_out()
            for take in sorted(done, key=takes.__getitem__):
                index, output = takes.pop(take), take.result()
                yield index, output
                if output.finish_reason is None:
                    takes[asyncio.ensure_future(outboxes[index].take())] = index
    finally:
        for take in takes:
            take.cancel()


def _event(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
