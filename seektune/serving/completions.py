"""From a checked body to an answer: tokens, the engine, and back to the caller, who may leave at any time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from seektune.config.serving import ServingConfig
from seektune.generation.request import Output, Sampling
from seektune.serving.answers import Reply
from seektune.serving.backend import Backend
from seektune.serving.events import EventStream, events
from seektune.serving.limits import Gate
from seektune.serving.outbox import Outbox
from seektune.serving.protocol import ChatBody, TextBody, choices
from seektune.serving.refusal import Refusal, timed_out
from seektune.serving.served import Served

T = TypeVar("T")


class Answering:
    """Answers calls through one backend."""

    def __init__(self, backend: Backend, config: ServingConfig) -> None:
        self._backend, self._config = backend, config
        self._gate = Gate(config.max_concurrent_requests)

    async def chat(self, body: ChatBody, call: Request) -> Response:
        """The answer to a conversation."""
        self._check_count(body.n, "n")
        sampling = body.asked(self._config.default_max_tokens)

        async def encoded() -> list[list[int]]:
            return [await self._backend.prompts.conversation(body.conversation, "messages")]

        return await self._answer(body, call, encoded, choices(sampling, body.n))

    async def complete(self, body: TextBody, call: Request) -> Response:
        """The continuation of each of a call's prompts."""
        prompts = body.prompts
        if not prompts:
            raise Refusal("prompt is empty: give at least one", param="prompt")
        self._check_count(len(prompts) * body.n, "n" if len(prompts) == 1 else "prompt")

        async def encoded() -> list[list[int]]:
            read = self._backend.prompts
            names = ["prompt"] if len(prompts) == 1 else [f"prompt.{i}" for i in range(len(prompts))]
            return [
                await read.text(prompt, name) if isinstance(prompt, str) else read.checked(prompt, name)
                for name, prompt in zip(names, prompts, strict=True)
            ]

        return await self._answer(body, call, encoded, choices(body.asked(), body.n), len(prompts))

    async def _answer(
        self,
        body: ChatBody | TextBody,
        call: Request,
        encoded: Callable[[], Coroutine[Any, Any, list[list[int]]]],
        samplings: Sequence[Sampling],
        prompts: int = 1,
    ) -> Response:
        """Everything that takes time has a place at the gate, a deadline, and a caller who may leave."""
        deadline = asyncio.get_running_loop().time() + self._config.request_timeout
        count = prompts * len(samplings)
        self._gate.enter(count)
        outboxes: list[Outbox] = []
        streaming: Response | None = None

        def close() -> None:
            self._backend.worker.cancel(outboxes)
            self._gate.leave(count)

        try:
            rows = await _unless_left(call, encoded(), deadline)
            served, outboxes = await self._backend.submit(body.model, rows, samplings, deadline)
            reply = self._reply(served, isinstance(body, ChatBody))
            if body.stream:
                pieces = events(reply, outboxes, body.n, deadline, wants_usage=body.wants_usage)
                streaming = EventStream(pieces, close, deadline)
                return streaming
            outputs = await _unless_left(call, _all(outboxes), deadline)
            return JSONResponse(reply.whole(outputs, body.n))
        finally:
            if streaming is None:
                close()

    def _reply(self, served: Served, chat: bool) -> Reply:
        return Reply(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            model=served.id,
            chat=chat,
            fingerprint=f"fp_{self._backend.loaded.identity[:12]}",
            tokenizer=self._backend.loaded.tokenizer,
        )

    def _check_count(self, count: int, name: str) -> None:
        if count > self._config.max_choices:
            raise Refusal(f"{count} answers in one call: at most {self._config.max_choices}", param=name)


async def _all(outboxes: Sequence[Outbox]) -> list[Output]:
    rests = [asyncio.ensure_future(outbox.rest()) for outbox in outboxes]
    try:
        return await asyncio.gather(*rests)
    finally:  # one that failed leaves the others waiting for what will not come
        for rest in rests:
            rest.cancel()


async def _unless_left(call: Request, work: Coroutine[Any, Any, T], deadline: float) -> T:
    """What `work` gives, unless the caller leaves or the deadline passes first."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_gone(call))
    try:
        left = deadline - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done:
            return tasks[0].result()
        raise Refusal("the caller left", 499) if done else timed_out()
    finally:
        for task in tasks:
            task.cancel()


async def _gone(call: Request) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass
