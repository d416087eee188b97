"""From a checked body to an answer: tokens, the engine, and back to the caller, who may leave at any time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from seektune.config.serving import ServingConfig
from seektune.data.templates.render import prompt_ids
from seektune.errors import ModelError
from seektune.generation.generate import encode_prompt
from seektune.generation.request import Output, Sampling
from seektune.generation.request import Request as Asked
from seektune.models.load import Loaded
from seektune.serving.answers import Reply
from seektune.serving.events import EventStream, events, timed_out
from seektune.serving.limits import Gate
from seektune.serving.outbox import Outbox
from seektune.serving.protocol import ChatBody, TextBody, choices
from seektune.serving.refusal import Refusal
from seektune.serving.served import Names, Served
from seektune.serving.worker import Worker

T = TypeVar("T")


class Answering:
    """Answers calls through one worker."""

    def __init__(
        self, loaded: Loaded, worker: Worker, names: Names, config: ServingConfig, max_model_len: int
    ) -> None:
        if loaded.tokenizer is None:
            raise ModelError(
                f"{loaded.source} has no tokenizer files, so it cannot be served: add them to it"
            )
        self._loaded, self._worker, self._names, self._config = loaded, worker, names, config
        self._tokenizer = loaded.tokenizer
        self._longest = min(max_model_len, config.max_prompt_tokens or max_model_len)
        self._letters = self._longest * max(map(len, loaded.tokenizer.get_vocab()))
        self._gate = Gate(config.max_concurrent_requests)
        # One thread: a tokenizer is not made for several, and long prompts hold up only each other.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")

    async def chat(self, body: ChatBody, call: Request) -> Response:
        """The answer to a conversation."""
        self._check_count(body.n, "n")
        turns = body.conversation
        self._check_letters(sum(len(turn.content) for turn in turns), "messages")
        ids = await self._encoded(lambda: prompt_ids(self._loaded, turns))
        sampling = body.asked(self._config.default_max_tokens)
        return await self._answer(body, call, {"messages": ids}, sampling)

    async def complete(self, body: TextBody, call: Request) -> Response:
        """The continuation of each of a call's prompts."""
        prompts = body.prompts
        if not prompts:
            raise Refusal("prompt is empty: give at least one", param="prompt")
        self._check_count(len(prompts) * body.n, "prompt")
        rows: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            name = "prompt" if len(prompts) == 1 else f"prompt.{index}"
            rows[name] = await self._tokens(prompt, name) if isinstance(prompt, str) else prompt
        return await self._answer(body, call, rows, body.asked())

    def close(self) -> None:
        """End the thread that reads prompts."""
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def _answer(
        self, body: ChatBody | TextBody, call: Request, prompts: Mapping[str, list[int]], sampling: Sampling
    ) -> Response:
        for name, ids in prompts.items():
            self._check_length(ids, name)
        deadline = asyncio.get_running_loop().time() + self._config.request_timeout
        count = len(prompts) * body.n
        self._gate.enter(count)
        outboxes: list[Outbox] = []
        streaming: Response | None = None

        def close() -> None:
            self._worker.cancel(outboxes)
            self._gate.leave(count)

        try:
            served, outboxes = await self._submit(body, list(prompts.values()), sampling, deadline)
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

    async def _submit(
        self,
        body: ChatBody | TextBody,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        deadline: float,
    ) -> tuple[Served, list[Outbox]]:
        """Put a request for each answer in the engine's queue, and wait until it takes them."""
        with self._names.serving(body.model) as served:
            asked = [
                Asked(
                    id=secrets.token_hex(12),
                    prompt=tuple(ids),
                    sampling=one,
                    adapter=served.adapter,
                    cache_key=served.content_hash,
                )
                for ids in prompts
                for one in choices(sampling, body.n)
            ]
            outboxes = [Outbox(one.id, served.name, self._config.max_backlog_tokens) for one in asked]
            accepted = self._worker.submit(asked, outboxes)
        try:
            async with asyncio.timeout_at(deadline):
                await accepted
        except TimeoutError:
            raise timed_out() from None
        return served, outboxes

    def _reply(self, served: Served, chat: bool) -> Reply:
        return Reply(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            model=served.id,
            chat=chat,
            fingerprint=f"fp_{self._loaded.identity[:12]}",
            tokenizer=self._tokenizer,
        )

    async def _tokens(self, text: str, name: str) -> list[int]:
        self._check_letters(len(text), name)
        return await self._encoded(lambda: encode_prompt(self._loaded, text))

    async def _encoded(self, encode: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._encoder, encode)

    def _check_count(self, count: int, name: str) -> None:
        if count > self._config.max_choices:
            raise Refusal(f"{count} answers in one call: at most {self._config.max_choices}", param=name)

    def _check_letters(self, count: int, name: str) -> None:
        if count > self._letters:  # no row of the longest tokens is this long: not worth encoding
            raise Refusal(
                f"{name} has {count:,} characters: more than {self._longest:,} tokens hold",
                param=name,
                code="context_length_exceeded",
            )

    def _check_length(self, ids: Sequence[int], name: str) -> None:
        if len(ids) >= self._longest:
            raise Refusal(
                f"{name} has {len(ids):,} tokens: with the answer at most {self._longest:,} are taken",
                param=name,
                code="context_length_exceeded",
            )


async def _all(outboxes: Sequence[Outbox]) -> list[Output]:
    return list(await asyncio.gather(*(outbox.rest() for outbox in outboxes)))


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
