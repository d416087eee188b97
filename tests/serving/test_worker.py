"""The engine's thread: commands in between, failures kept to what took part, an end in order."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from typing import Any, TypeVar

import pytest

from seektune.config.engine import EngineConfig
from seektune.errors import ConfigError
from seektune.generation.engine import Engine
from seektune.generation.request import Output, Request, Sampling
from seektune.models.load import load_model
from seektune.serving.metrics import Metrics
from seektune.serving.outbox import Outbox
from seektune.serving.refusal import Refusal
from seektune.serving.worker import Worker

T = TypeVar("T")


class Stopping(Worker):
    """A worker that `closing` can end."""

    def close(self) -> None:
        self.stop(timeout=30)


def with_worker(work: Callable[[Stopping, Engine], Awaitable[T]], **config: int) -> T:
    async def run() -> T:
        engine = Engine(load_model("tiny/llama"), config=EngineConfig(**config))
        with closing(Stopping(engine, Metrics())) as worker:
            worker.start()
            return await work(worker, engine)

    return asyncio.run(asyncio.wait_for(run(), 120))


def request(name: str, prompt: Sequence[int] = (5, 6, 7), **sampling: Any) -> Request:
    settings = {"max_tokens": 8, "ignore_eos": True} | sampling
    return Request(id=name, prompt=tuple(prompt), sampling=Sampling(**settings))


async def submitted(worker: Worker, *requests: Request, backlog: int = 10_000) -> list[Outbox]:
    outboxes = [Outbox(request.id, "m", backlog) for request in requests]
    await worker.submit(requests, outboxes)
    return outboxes


MIXED = [request(str(i), range(3, 5 + i), max_tokens=3 + i) for i in range(9)]


def test_answers_come_as_from_the_engine_alone():
    engine = Engine(load_model("tiny/llama"))
    for one in MIXED:
        engine.submit(one)
    want: dict[str, tuple[int, ...]] = {}
    while engine.has_work:
        for output in engine.step():
            want[output.id] = want.get(output.id, ()) + output.tokens

    async def work(worker: Worker, _: Engine) -> dict[str, tuple[int, ...]]:
        outboxes = await submitted(worker, *MIXED)
        outputs = await asyncio.gather(*(outbox.rest() for outbox in outboxes))
        return {output.id: output.tokens for output in outputs}

    assert with_worker(work) == want


def test_a_request_that_cannot_be_answered_takes_the_others_of_its_call_along():
    async def work(worker: Worker, engine: Engine) -> tuple[bool, int]:
        with pytest.raises(ConfigError, match="1000000"):
            await submitted(worker, request("good", max_tokens=4000), request("bad", [10**6]))
        await worker.call(engine.step)  # what was cancelled says so
        return await worker.call(lambda: engine.has_work), worker.stats.running

    assert with_worker(work) == (False, 0)


def test_a_step_that_fails_ends_what_took_part_and_nothing_else(caplog):
    async def work(worker: Worker, engine: Engine) -> tuple[list[object], list[int]]:
        whole, failing = engine.step, threading.Event()

        def step() -> list[Output]:
            outputs = whole()
            if failing.is_set():
                failing.clear()
                raise RuntimeError("the device is gone")
            return outputs

        engine.step = step
        running = await submitted(worker, request("a", max_tokens=3000))
        running += await submitted(worker, request("b", max_tokens=3000))
        waiting = await submitted(worker, request("c"))
        failing.set()
        told = await asyncio.gather(*(outbox.rest() for outbox in running), return_exceptions=True)
        again = await submitted(worker, request("d"))
        return told, [len((await box.rest()).tokens) for box in (*waiting, *again)]

    with caplog.at_level(logging.CRITICAL):
        told, answered = with_worker(work, max_num_seqs=2)
    assert [type(error) for error in told] == [Refusal, Refusal]
    assert [error.status for error in told] == [500, 500]
    assert "RuntimeError" in str(told[0])
    assert answered == [8, 8]


def test_a_cancelled_request_leaves_the_engine_and_its_pages():
    async def work(worker: Worker, engine: Engine) -> tuple[int, int]:
        free = engine.stats.used_pages
        outboxes = await submitted(worker, request("long", max_tokens=4000))
        await outboxes[0].take()
        worker.cancel(outboxes)
        await worker.call(lambda: None)
        after = await worker.call(lambda: engine.stats)
        worker.cancel(outboxes)  # a second time is no error
        await worker.call(lambda: None)
        return after.running + after.waiting, after.used_pages - free

    assert with_worker(work, enable_prefix_caching=0) == (0, 0)


def test_a_caller_that_leaves_while_it_submits_leaves_nothing_behind():
    async def work(worker: Worker, engine: Engine) -> bool:
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(30)

        blocking = asyncio.ensure_future(worker.call(hold))
        await asyncio.to_thread(held.wait, 30)
        submitting = asyncio.ensure_future(submitted(worker, request("left", max_tokens=4000)))
        await asyncio.sleep(0)
        submitting.cancel()
        go.set()
        await blocking
        with pytest.raises(asyncio.CancelledError):
            await submitting
        await worker.call(lambda: None)
        return await worker.call(lambda: bool(engine.stats.running + engine.stats.waiting))

    assert with_worker(work) is False


def test_a_slow_reader_is_cut_off_and_the_others_are_not():
    async def work(worker: Worker, engine: Engine) -> tuple[int, int]:
        [slow] = await submitted(worker, request("slow", max_tokens=3000), backlog=50)
        quick = await submitted(worker, request("quick", max_tokens=200))
        tokens = len((await quick[0].rest()).tokens)
        with pytest.raises(Refusal, match="more than 50 tokens behind"):
            await slow.rest()
        return tokens, await worker.call(lambda: engine.stats.running)

    assert with_worker(work) == (200, 0)


def test_a_command_gives_what_it_returns_and_raises_what_it_raises():
    async def work(worker: Worker, _: Engine) -> tuple[int, str]:
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 // 0)
        return await worker.call(lambda: 7), await worker.call(lambda: threading.current_thread().name)

    assert with_worker(work) == (7, "engine")


def test_a_command_that_fails_unheard_is_logged_and_the_thread_goes_on(caplog):
    async def work(worker: Worker, _: Engine) -> list[int]:
        outboxes = await submitted(worker, request("a"))
        worker.send(lambda: 1 // 0)
        return [len((await box.rest()).tokens) for box in [*outboxes, *await submitted(worker, request("b"))]]

    assert with_worker(work) == [8, 8]
    assert "ZeroDivisionError" in caplog.text


def test_the_end_tells_those_who_wait_and_takes_nothing_more():
    async def work(worker: Worker, _: Engine) -> list[int]:
        outboxes = await submitted(worker, request("long", max_tokens=4000))
        await asyncio.to_thread(worker.stop, 30)
        statuses = []
        for attempt in (outboxes[0].rest, lambda: submitted(worker, request("late")), worker.call):
            with pytest.raises(Refusal) as refused:
                await (attempt(lambda: None) if attempt == worker.call else attempt())
            statuses.append(refused.value.status)
        assert not worker.alive
        return statuses

    assert with_worker(work) == [503, 503, 503]
