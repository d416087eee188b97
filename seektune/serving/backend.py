"""What every front end puts requests into: the engine's thread and the adapters it answers with."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from seektune.adapters.slots import Slots
from seektune.config.serving import ServeConfig
from seektune.errors import SeektuneError
from seektune.generation.engine import Engine
from seektune.generation.request import Request, Sampling
from seektune.models.load import Loaded
from seektune.serving.metrics import Metrics
from seektune.serving.outbox import Outbox
from seektune.serving.prompts import Prompts
from seektune.serving.refusal import timed_out
from seektune.serving.registry import Command, Publish, Registry
from seektune.serving.served import Names, Served, base_name
from seektune.serving.worker import Worker

STATE = ".seektune-served.json"
"""File of the adapter root that says what was served last."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Backend:
    """One model and its adapters, answering."""

    loaded: Loaded
    worker: Worker
    names: Names
    registry: Registry
    metrics: Metrics
    prompts: Prompts
    max_backlog_tokens: int
    _changes: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, thread_name_prefix="adapters")
    )

    async def submit(
        self, model: str, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], deadline: float
    ) -> tuple[Served, list[Outbox]]:
        """Put a request for each sampling of each prompt in the engine's queue, and wait until it takes them.

        `deadline` is the loop's time. Raises Refusal where `model` is not served or the time is over, and
        what the engine raises for a request that it cannot answer.
        """
        with self.names.serving(model) as served:
            asked = [
                Request(
                    id=secrets.token_hex(12),
                    prompt=tuple(ids),
                    sampling=one,
                    adapter=served.adapter,
                    cache_key=served.content_hash,
                )
                for ids in prompts
                for one in samplings
            ]
            outboxes = [Outbox(one.id, served.name, self.max_backlog_tokens) for one in asked]
            accepted = self.worker.submit(asked, outboxes)
        try:
            async with asyncio.timeout_at(deadline):
                await accepted
        except TimeoutError:
            raise timed_out() from None
        return served, outboxes

    async def change(self, work: Callable[[], T]) -> T:
        """What the registry is asked for, one change at a time and away from the loop.

        A load reads files and may wait for a slot.
        """
        return await asyncio.get_running_loop().run_in_executor(self._changes, work)

    async def watch(self, every: float) -> None:
        """Look at the adapter root every so many seconds, for ever; what is wrong with it is logged once."""
        told = ""
        while True:
            await asyncio.sleep(every)
            trouble = ""
            try:
                for line in await asyncio.to_thread(self.registry.poll):
                    _log.warning("%s", line)
            except Exception as error:  # the root may be away for a while
                trouble = str(error) if isinstance(error, SeektuneError) else repr(error)
                if trouble != told:
                    _log.error("the adapters are looked at again in %g s: %s", every, trouble)
            told = trouble

    def close(self) -> None:
        """End the engine's thread, and what is still under way with it; a second time is no error."""
        self.worker.stop(timeout=30)
        self.prompts.close()
        self._changes.shutdown(cancel_futures=True)


def open_backend(loaded: Loaded, config: ServeConfig, adapters: Mapping[str, Path] | None = None) -> Backend:
    """The engine's thread running and adapters published; to be closed.

    `adapters` are folders from anywhere, by the name they are served under. Raises AdapterError for one
    that does not load, ModelError for a model without a tokenizer.
    """
    serving = config.serving
    slots = Slots(
        loaded,
        max_slots=serving.max_loras,
        max_rank=serving.max_lora_rank,
        max_bytes=serving.adapter_memory_bytes,
    )
    engine = Engine(loaded, slots, config=config.engine)
    prompts = Prompts(loaded, engine.max_model_len, serving.max_prompt_tokens)
    metrics = Metrics()
    worker = Worker(engine, metrics)
    metrics.watch(lambda: worker.stats)
    base = base_name(loaded)

    def send(command: Command) -> None:
        worker.send(partial(_apply, slots, metrics, command))

    root = serving.adapter_root
    state = serving.adapter_state or (root / STATE if root else None)
    registry = Registry(slots, root, send, state=state, reserved=[base], fixed=adapters or {})
    names = Names(base, registry)
    backend = Backend(loaded, worker, names, registry, metrics, prompts, serving.max_backlog_tokens)
    worker.start()
    try:
        registry.restore()
    except BaseException:
        backend.close()
        raise
    return backend


def settle() -> None:
    """Let garbage collection leave alone what is loaded, in a process that only serves from now on.

    Each adapter that comes makes objects enough for a full collection, which would walk all of the libraries'
    objects too while no step can run: 0.2 seconds of two cores.
    """
    gc.collect()
    gc.freeze()


def _apply(slots: Slots, metrics: Metrics, command: Command) -> None:
    began = time.perf_counter()
    if isinstance(command, Publish):
        slots.publish(command.staged)
    else:
        slots.retire(command.key)
    metrics.swapped(time.perf_counter() - began)
