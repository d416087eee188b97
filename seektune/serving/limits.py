"""How much one call, and all of them together, may ask for."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from seektune.config.serving import ServingConfig
from seektune.serving.refusal import Refusal, shown


class Gate:
    """Places for answers under way or waiting; belongs to one event loop."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0

    def enter(self, count: int) -> None:
        """Take `count` places; raises Refusal when they are not free, or never will be."""
        if count > self._places:
            raise Refusal(f"{count} answers in one call: {self._places} are the most under way at a time")
        if self._taken + count > self._places:
            raise Refusal(
                f"{self._taken} answers are under way or waiting, {self._places} are the most: try again",
                429,
                code="too_many_requests",
                headers={"Retry-After": "1"},
            )
        self._taken += count

    def leave(self, count: int) -> None:
        """Give `count` places back."""
        self._taken -= count


async def body_of(request: Request, config: ServingConfig) -> bytes:
    """The body of a call that says it is JSON, within the limits of size and time."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # what a page of elsewhere may post without asking is none
        raise Refusal(f"the content type is {shown(kind)}: send application/json", 415)
    most = config.max_body_bytes
    claimed = request.headers.get("content-length", "")
    if claimed.isdigit() and int(claimed) > most:
        raise _too_large(most)
    parts, size = [], 0
    try:
        async with asyncio.timeout(config.body_timeout):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        raise Refusal(f"the body did not arrive within {config.body_timeout:g} seconds", 408) from None
    except ClientDisconnect:
        raise Refusal("the caller left before the body was complete", 400) from None
    return b"".join(parts)


def _too_large(most: int) -> Refusal:
    return Refusal(f"the body has more than {most:,} bytes", 413, code="body_too_large")
