"""Samples become ragged batches, in an order that is a function of (seed, epoch, position) alone."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain

import torch

from seektune.data.packing import best_fit, in_order
from seektune.data.templates import to_sample
from seektune.errors import DataError
from seektune.types import IGNORE, Batch, Chat, Example, Sample


@dataclass(frozen=True)
class Batches:
    """One rank's batches of every epoch; iterating gives epoch 0.

    `too_long` names the rows left out because they exceed max_length. Every rank has the same number of
    batches: where the rows do not divide evenly, the last ones repeat earlier rows with weight zero, so the
    token-weighted loss over all ranks is the loss over the rows.
    """

    samples: tuple[Sample, ...]
    too_long: tuple[str, ...]
    batch_size: int
    pack_tokens: int | None
    seed: int
    rank: int
    world_size: int
    shuffle: bool

    def __len__(self) -> int:
        return math.ceil(self._row_count / self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, index: int) -> Iterator[Batch]:
        """The batches of epoch `index`; without shuffling every epoch is the same."""
        rows = self._rows(index)
        for position in range(self.rank, len(self) * self.world_size, self.world_size):
            samples = [self.samples[member] for member in rows[position % len(rows)]]
            filler = position >= len(rows)
            yield collate([replace(sample, weight=0.0) for sample in samples] if filler else samples)

    @cached_property
    def _row_count(self) -> int:
        return len(self._rows(0))  # packing depends on the lengths alone: the same in every epoch

    def _rows(self, epoch: int) -> list[list[int]]:
        generator = random.Random(f"{self.seed} {epoch}")
        order = list(range(len(self.samples)))
        if self.shuffle:
            generator.shuffle(order)
        if self.pack_tokens is None:
            return in_order(order, self.batch_size)
        rows = best_fit(order, [len(sample) for sample in self.samples], self.pack_tokens)
        if self.shuffle:
            generator.shuffle(rows)
        return rows


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

    A batch is one row of `batch_size` samples, or, with `pack_tokens`, of as many as fit that budget. A
    record of more than `max_length` tokens is left out and named in `too_long`, never cut. Raises DataError
    when nothing is left to train on or a sample exceeds the budget.
    """
    if not records:
        raise DataError("there are no records to train on")
    samples = [to_sample(chat, record) for record in records]
    kept = tuple(sample for sample in samples if len(sample) < max_length)  # the last token is a target only
    too_long = tuple(sample.row_id for sample in samples if len(sample) >= max_length)
    if not kept:
        raise DataError(
            f"all {len(samples)} rows are longer than max_length {max_length}; "
            f"the shortest has {min(map(len, samples)) + 1} tokens"
        )
    longest = max(kept, key=len)
    if pack_tokens is not None and len(longest) > pack_tokens:
        raise DataError(
            f"{longest.row_id} has {len(longest)} tokens, more than pack_tokens {pack_tokens}: "
            "raise pack_tokens or lower max_length"
        )
    return Batches(kept, too_long, batch_size, pack_tokens, seed, rank, world_size, shuffle)


def collate(samples: Sequence[Sample]) -> Batch:
    """One ragged row of the samples in order; positions without a target weigh nothing."""
    lengths = [len(sample) for sample in samples]
    targets = torch.tensor([list(chain.from_iterable(sample.targets for sample in samples))])
    weights = torch.tensor([sample.weight for sample in samples], dtype=torch.float32).repeat_interleave(
        torch.tensor(lengths)
    )
    return Batch(
        input_ids=torch.tensor([list(chain.from_iterable(sample.input_ids for sample in samples))]),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        cu_seqlens=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        targets=targets,
        weights=weights.where(targets != IGNORE, 0.0),
        row_ids=tuple(sample.row_id for sample in samples),
    )
