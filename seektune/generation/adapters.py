"""Which adapter answers which tokens: those attached to the model, or those resident in slots."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Protocol

from torch import nn

from seektune.adapters.attach import adapters, at_work, deltas_of, wrappers_of
from seektune.adapters.slots import Slots
from seektune.errors import AdapterError
from seektune.generation.cache import Scheduled
from seektune.models.load import Loaded


class Adapters(Protocol):
    """What the engine asks of the adapters of its model."""

    def acquire(self, key: str) -> None:
        """Hold an adapter for a request; AdapterError for one that is not there."""
        ...

    def release(self, key: str) -> None:
        """The request is over."""
        ...

    def content_key(self, key: str | None) -> str:
        """What names the weights that answer: keys and values may be shared within one content."""
        ...

    def parts(self, chunks: Items[Scheduled]) -> Iterator[list[Scheduled]]:
        """The chunks that may share a forward, in the order of rows that is the cheapest."""
        ...

    def using(self, chunks: Items[Scheduled]) -> AbstractContextManager[None]:
        """Within the block a forward over exactly these chunks runs each under its adapter."""
        ...


class ResidentAdapters:
    """Adapters in slots: all of them in one forward."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.acquire = slots.acquire
        self.release = slots.release

    def content_key(self, key: str | None) -> str:
        """As `Adapters.content_key`: a key means one content as long as it is resident."""
        return key or ""

    def parts(self, chunks: Items[Scheduled]) -> Iterator[list[Scheduled]]:
        """As `Adapters.parts`: rows of one slot stand together, those that decode first."""
        if chunks:
            yield sorted(chunks, key=lambda c: (self._slots.slot_of(c[0].request.adapter), *_length(c)))

    def using(self, chunks: Items[Scheduled]) -> AbstractContextManager[None]:
        """As `Adapters.using`."""
        keys = [sequence.request.adapter for sequence, _ in chunks]
        return self._slots.using(keys, [count for _, count in chunks])


class AttachedAdapters:
    """Adapters attached to the model, one of them at work: a forward for each that is asked for."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        # By name: parameters at the last request, held so that no others get their ids, and their changes.
        self._contents: dict[str, tuple[list[tuple[nn.Parameter, int]], int]] = {}

    def acquire(self, key: str) -> None:
        """As `Adapters.acquire`."""
        known = adapters(self._loaded)
        if key not in known:
            raise AdapterError(f"there is no adapter {key!r}; attached: {', '.join(known) or 'none'}")

    def release(self, key: str) -> None:
        """Attached adapters stay."""

    def content_key(self, key: str | None) -> str:
        """As `Adapters.content_key`: to train an adapter, or attach another by its name, makes a new one."""
        if key is None:
            return ""
        parts = [p for delta in deltas_of(self._loaded, key).values() for p in delta.parameters()]
        known, changes = self._contents.get(key, ([], 0))
        if [(id(p), p._version) for p in parts] != [(id(p), version) for p, version in known]:
            changes += 1
            self._contents[key] = [(p, p._version) for p in parts], changes
        return f"{key} {changes}"

    def parts(self, chunks: Items[Scheduled]) -> Iterator[list[Scheduled]]:
        """As `Adapters.parts`."""
        ordered = sorted(chunks, key=lambda chunk: (_name(chunk), *_length(chunk)))
        yield from (list(part) for _, part in groupby(ordered, key=_name))

    def using(self, chunks: Items[Scheduled]) -> AbstractContextManager[None]:
        """As `Adapters.using`."""
        name, known = chunks[0][0].request.adapter, adapters(self._loaded)
        if name is not None and name not in known:
            raise AdapterError(f"the adapter {name!r} was detached while it was answering")
        if not known:
            return nullcontext()
        return at_work(list(wrappers_of(self._loaded.model).values()), name)  # others may have come since


def _name(chunk: Scheduled) -> str:
    return chunk[0].request.adapter or ""


def _length(chunk: Scheduled) -> tuple[bool, int]:
    return chunk[1] > 1, chunk[0].computed
