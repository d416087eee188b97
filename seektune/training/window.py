"""The batches of one optimiser step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

from seektune.types import IGNORE, Batch, BatchSource


@dataclass(frozen=True, slots=True)
class Window:
    """What one optimiser step of this process sees; `epoch` is where the data stands after it."""

    batches: tuple[Batch, ...]
    epoch: float

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


def windows(source: BatchSource, size: int) -> Iterator[Window]:
    """Windows of up to `size` batches, epoch after epoch without end; none spans two epochs."""
    for index in count():
        epoch, seen = source.epoch(index), 0
        while batches := tuple(islice(epoch, size)):
            seen += len(batches)
            yield Window(batches, index + seen / len(source))
