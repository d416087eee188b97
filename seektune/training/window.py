"""The batches of one optimiser step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from seektune.types import IGNORE, Batch, BatchSource

Position = tuple[int, int]
"""Index of an epoch and of the batch in it that comes next."""

NAMED_ROWS = 8
"""Rows an error names before it only counts."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one optimiser step of this process sees; `epoch` is where the data stands after it, in epochs."""

    batches: tuple[Batch, ...]
    epoch: float
    start: Position
    after: Position

    @property
    def weight(self) -> float:
        """Sum of the weights of all positions that carry loss."""
        return sum(float(batch.weights[batch.targets != IGNORE].sum()) for batch in self.batches)

    @property
    def tokens(self) -> int:
        """Tokens in, with or without loss."""
        return sum(batch.input_ids.numel() for batch in self.batches)

    @property
    def row_ids(self) -> tuple[str, ...]:
        """The rows of all batches, in order."""
        return tuple(row_id for batch in self.batches for row_id in batch.row_ids)

    def digest(self) -> str:
        """A hash of what is learned from: tokens, targets, weights and boundaries."""
        parts = hashlib.blake2b(digest_size=16)
        for batch in self.batches:
            for tensor in (batch.input_ids, batch.targets, batch.weights, batch.cu_seqlens):
                parts.update(tensor.cpu().numpy().tobytes())
        return parts.hexdigest()


def windows(source: BatchSource, size: int, start: Position = (0, 0)) -> Iterator[Window]:
    """Windows of up to `size` batches from `start` on, epoch after epoch; none spans two epochs."""
    first, seen = start
    for index in count(first):
        epoch = source.epoch(index, seen)
        while batches := tuple(islice(epoch, size)):
            before, seen = seen, seen + len(batches)
            yield Window(batches, index + seen / len(source), (index, before), (index, seen))
        seen = 0


def named(row_ids: Sequence[str]) -> str:
    """Rows as an error names them."""
    more = f" and {len(row_ids) - NAMED_ROWS} more rows" if len(row_ids) > NAMED_ROWS else ""
    return ", ".join(row_ids[:NAMED_ROWS]) + more
