"""Samples become ragged batches, in an order that is a function of (seed, epoch, position) alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seektune.data.packing import Ints, Plan, in_order, packed, shuffled
from seektune.data.prepared import SampleTable
from seektune.data.templates.render import to_samples
from seektune.errors import DataError
from seektune.types import IGNORE, Batch, Chat, Example, Sample


@dataclass(frozen=True, kw_only=True)
class Batches:
    """One rank's batches of every epoch; iterating gives epoch 0.

    A batch is one row of `batch_size` samples, or, with `pack_tokens`, of as many as fit that budget.
    `too_long` names the rows left out before. Every rank has the same number of batches: where the rows do
    not divide evenly, the last ones repeat earlier rows with weight zero, so the token-weighted loss over
    all ranks is the loss over the rows. Raises DataError naming a sample that exceeds the budget.
    """

    samples: Sequence[Sample]
    batch_size: int = 8
    pack_tokens: int | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    too_long: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pack_tokens is None or not len(self.samples):
            return
        longest = int(self.lengths.argmax())
        if self.lengths[longest] > self.pack_tokens:
            raise DataError(
                f"{self.samples[longest].row_id} has {self.lengths[longest]} tokens, more than pack_tokens "
                f"{self.pack_tokens}: raise pack_tokens or lower max_length"
            )

    def __len__(self) -> int:
        return math.ceil(self._row_count / self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `index` from position `start` on; unshuffled, every epoch is the same.

        (seed, index, start) is all the state there is: the order needs nothing else to be taken up again.
        """
        plan = self._plan(index)
        for position in range(
            self.rank + start * self.world_size, len(self) * self.world_size, self.world_size
        ):
            samples = [self.samples[member] for member in plan.row(position % plan.rows)]
            filler = position >= plan.rows
            yield collate([replace(sample, weight=0.0) for sample in samples] if filler else samples)

    @property
    def fill(self) -> float:
        """Tokens over the room for them in packed rows; 1 where rows have no budget."""
        if self.pack_tokens is None:
            return 1.0
        return float(self.lengths.sum()) / (self.pack_tokens * self._row_count)

    def longest(self, epochs: int) -> int:
        """Tokens of the longest batch in the first `epochs` epochs, whichever rank has it."""
        plans = map(self._plan, range(epochs if self.shuffle else 1))
        return max(int(np.add.reduceat(self.lengths[p.members], p.starts[:-1]).max()) for p in plans)

    @cached_property
    def _row_count(self) -> int:
        return self._plan(0).rows  # packing depends on the lengths alone: the same in every epoch

    @cached_property
    def lengths(self) -> Ints:
        """(N,) input tokens of each sample."""
        if isinstance(self.samples, SampleTable):
            return self.samples.lengths
        return np.fromiter(map(len, self.samples), np.int64, len(self.samples))

    def _plan(self, epoch: int) -> Plan:
        generator = np.random.default_rng((abs(self.seed), self.seed < 0, epoch))
        count = len(self.samples)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        if self.pack_tokens is None:
            return in_order(order, self.batch_size)
        plan = packed(order, self.lengths, self.pack_tokens)
        return shuffled(plan, generator) if self.shuffle else plan


def batches(
    records: Sequence[Example],
    chat: Chat,
    *,
    batch_size: int = 8,
    pack_tokens: int | None = None,
    max_length: int = 2048,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = True,
) -> Batches:
    """Tokenise `records` for `chat` (a loaded model) into ragged batches.

    A record of more than `max_length` tokens is left out and named in `too_long`, never cut. Raises
    DataError when nothing is left to train on or a sample exceeds the budget.
    """
    if not records:
        raise DataError("there are no records to train on")
    samples = list(map(_made, to_samples(chat, records)))
    kept = tuple(sample for sample in samples if len(sample) < max_length)  # the last token is a target only
    too_long = tuple(sample.row_id for sample in samples if len(sample) >= max_length)
    if not kept:
        raise DataError(
            f"all {len(samples)} rows are longer than max_length {max_length}; "
            f"the shortest has {min(map(len, samples)) + 1} tokens"
        )
    return Batches(
        samples=kept,
        batch_size=batch_size,
        pack_tokens=pack_tokens,
        seed=seed,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle,
        too_long=too_long,
    )


def _made(sample: Sample | DataError) -> Sample:
    if isinstance(sample, DataError):
        raise sample
    return sample


def collate(samples: Sequence[Sample]) -> Batch:
    """One ragged row of the samples in order; positions without a target weigh nothing."""
    lengths = np.array([len(sample) for sample in samples])
    ends = np.cumsum(lengths)
    targets = _joined(sample.targets for sample in samples)
    if all(isinstance(sample.weight, int | float) for sample in samples):
        weights = np.repeat(np.array([sample.weight for sample in samples], np.float32), lengths)
    else:
        weights = _joined(np.broadcast_to(sample.weight, len(sample)) for sample in samples)
    weights = np.where(targets != IGNORE, weights, 0)
    return Batch(
        input_ids=_row(_joined(sample.input_ids for sample in samples), np.int64),
        position_ids=_row(np.arange(ends[-1]) - np.repeat(ends - lengths, lengths), np.int64),
        cu_seqlens=torch.from_numpy(np.append(0, ends).astype(np.int32)),
        targets=_row(targets, np.int64),
        weights=_row(weights, np.float32),
        row_ids=tuple(sample.row_id for sample in samples),
    )


def _joined(parts: Iterable[Any]) -> NDArray[Any]:
    return np.concatenate([np.asarray(part) for part in parts])


def _row(values: NDArray[Any], dtype: type) -> torch.Tensor:
    """(1, T)."""
    return torch.from_numpy(values.astype(dtype, copy=False))[None]
