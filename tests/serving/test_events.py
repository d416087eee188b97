"""Streams of several choices: every piece once, in order, and one end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from seektune.generation.request import Output
from seektune.serving.answers import Reply
from seektune.serving.events import events
from seektune.serving.outbox import Outbox
from seektune.serving.refusal import Refusal

REPLY = Reply(id="x", model="m", chat=False, fingerprint="f", tokenizer=None)


def piece(text: str, reason: str | None = None) -> Output:
    return Output(id="r", tokens=(1,) * len(text), text=text, finish_reason=reason, completion_tokens=2)


async def _read(outboxes: list[Outbox], seconds: float = 60, **options: Any) -> list[Any]:
    deadline = asyncio.get_running_loop().time() + seconds
    options = {"wants_usage": False} | options
    return [
        json.loads(event.removeprefix(b"data: ")) if b"[DONE]" not in event else "done"
        async for event in events(REPLY, outboxes, 1, deadline, **options)
    ]


def test_choices_come_as_they_are_made_and_usage_last():
    async def run() -> list[Any]:
        outboxes = [Outbox("a", "m", 100), Outbox("b", "m", 100)]

        async def write() -> None:
            for text, reason in (("x", None), ("", None), ("y", "stop")):
                for outbox in outboxes:
                    outbox.put(piece(text, reason))
                await asyncio.sleep(0.01)

        writing = asyncio.ensure_future(write())
        got = await _read(outboxes, wants_usage=True)
        await writing
        return got

    *chunks, last, done = asyncio.run(run())
    assert done == "done"
    assert last["usage"]["completion_tokens"] == 4
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(one["text"] for one in mine) == "xy"
        assert [one["finish_reason"] for one in mine][-1] == "stop"
    assert all(chunk["usage"] is None for chunk in chunks)


def test_an_answer_that_fails_ends_the_stream_with_its_reason():
    async def run() -> list[Any]:
        outboxes = [Outbox("a", "m", 100), Outbox("b", "m", 100)]
        outboxes[0].put(piece("x"))
        outboxes[1].fail(Refusal("the engine failed", 500))
        return await _read(outboxes)

    got = asyncio.run(run())
    assert got[-1]["error"]["message"] == "the engine failed"
    assert "done" not in got


def test_an_answer_that_takes_too_long_ends_with_its_reason():
    async def run() -> list[Any]:
        outbox = Outbox("a", "m", 100)
        outbox.put(piece("x"))
        return await _read([outbox], seconds=0.2)

    first, last = asyncio.run(run())
    assert first["choices"][0]["text"] == "x"
    assert last["error"]["code"] == "timeout"
