"""Outputs from one thread to a reader in a loop, who may be slow."""

from __future__ import annotations

import asyncio
import threading

import pytest

from seektune.generation.request import Output
from seektune.serving.outbox import Outbox, joined
from seektune.serving.refusal import Refusal


def piece(token: int, reason: str | None = None) -> Output:
    return Output(id="r", tokens=(token,), text=chr(token), completion_tokens=token, finish_reason=reason)


def test_outputs_join_to_one_that_is_as_the_last_and_holds_all():
    both = joined(piece(65), piece(66, "stop"))
    assert (both.tokens, both.text, both.finish_reason, both.completion_tokens) == (
        (65, 66),
        "AB",
        "stop",
        66,
    )


def test_what_a_thread_puts_is_taken_in_order_and_whole():
    async def read() -> list[Output]:
        outbox = Outbox("r", "m", 10_000)

        def write() -> None:
            for token in range(65, 1065):
                outbox.put(piece(token, "length" if token == 1064 else None))

        thread = threading.Thread(target=write)
        thread.start()
        taken = [await outbox.take()]
        while taken[-1].finish_reason is None:
            taken.append(await outbox.take())
        thread.join()
        return taken

    taken = asyncio.run(read())
    assert [token for output in taken for token in output.tokens] == list(range(65, 1065))
    assert "".join(output.text for output in taken) == "".join(map(chr, range(65, 1065)))


def test_a_reader_that_comes_late_finds_one_output():
    async def read() -> tuple[Output, Output]:
        outbox = Outbox("r", "m", 100)
        for token in range(65, 90):
            assert outbox.put(piece(token))
        first = await outbox.take()
        assert outbox.put(piece(90, "stop"))
        return first, await outbox.rest()

    first, rest = asyncio.run(read())
    assert len(first.tokens) == 25
    assert rest.tokens == (90,)


def test_a_reader_too_far_behind_is_given_up_and_told():
    async def read() -> None:
        outbox = Outbox("r", "m", 3)
        assert [outbox.put(piece(token)) for token in range(65, 69)] == [True, True, True, False]
        with pytest.raises(Refusal, match="more than 3 tokens behind"):
            await outbox.take()

    asyncio.run(read())


def test_the_end_of_an_answer_never_comes_too_late():
    async def read() -> Output:
        outbox = Outbox("r", "m", 3)
        for token in range(65, 68):
            outbox.put(piece(token))
        assert outbox.put(piece(68, "stop"))
        return await outbox.rest()

    assert len(asyncio.run(read()).tokens) == 4


def test_putting_to_a_loop_that_has_ended_is_no_error():
    async def make() -> Outbox:
        return Outbox("r", "m", 3)

    outbox = asyncio.run(make())
    assert outbox.put(piece(65))
    outbox.fail(Refusal("over"))
