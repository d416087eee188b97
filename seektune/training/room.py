"""How much fits into memory at once: learnt where something did not, and kept to from then on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from types import TracebackType

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from seektune.errors import TrainingError
from seektune.types import Batch

logger = logging.getLogger(__name__)


class Room:
    """Cuts batches between their sequences into pieces of at most `tokens`, which is None until one fails.

    A sequence is never cut. Where `splits` is False a batch that does not fit is an error.
    """

    def __init__(self, *, splits: bool) -> None:
        self.tokens: int | None = None
        self._splits = splits

    def trials(self, batches: Sequence[Batch]) -> Iterator[Trial]:
        """Trials of the batches, each in smaller pieces than the one before, until one runs to its end.

        What a failed trial has done must be undone in the next. One warning says which size fits. Raises
        TrainingError for a sequence that does not fit alone.
        """
        before = self.tokens
        while True:
            trial = Trial(tuple(piece for batch in batches for piece in self._pieces(batch)))
            yield trial
            if trial.failure is None:
                break
            self._shrink(trial.current, trial.failure)
            clear_device_cache(garbage_collection=True)
        if self.tokens != before:
            logger.warning(
                "a batch did not fit into memory: from now on at most %d tokens go through the model at once "
                "and add up to the same step; a lower per_device_train_batch_size (or data.pack_tokens) with "
                "as many more gradient_accumulation_steps spares the attempt",
                self.tokens,
            )

    def _pieces(self, batch: Batch) -> Iterator[Batch]:
        if self.tokens is None or batch.input_ids.numel() <= self.tokens or len(batch.row_ids) == 1:
            yield batch
            return
        for half in halves(batch):
            yield from self._pieces(half)

    def _shrink(self, batch: Batch, failure: str) -> None:
        tokens, rows = batch.input_ids.numel(), len(batch.row_ids)
        if rows == 1:
            raise TrainingError(
                f"{batch.row_ids[0]} has {tokens} tokens and does not fit into memory alone ({failure}): set "
                f"training.gradient_checkpointing: true, or data.max_length: {tokens // 2}"
            )
        if not self._splits:
            raise TrainingError(
                f"a batch of {rows} rows and {tokens} tokens does not fit into memory ({failure}): set "
                f"training.per_device_train_batch_size: {rows // 2} (or data.pack_tokens: {tokens // 2}) and "
                "twice the gradient_accumulation_steps; one process alone halves batches by itself with "
                "auto_find_batch_size: true"
            )
        self.tokens = tokens // 2


class Trial:
    """One attempt at some pieces, as a block: a lack of memory ends the block, not the program."""

    def __init__(self, pieces: tuple[Batch, ...]) -> None:
        self.pieces = pieces
        self.current = pieces[0]  # the piece under way
        self.failure: str | None = None

    def __iter__(self) -> Iterator[Batch]:
        for piece in self.pieces:
            self.current = piece
            yield piece

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception) and is_out_of_memory(error):
            self.failure = str(error).partition("\n")[0]  # the error itself would hold on to its tensors
        return self.failure is not None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the CPU had no room left; the CPU says so in a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The batch in two at the end of a sequence, as near the middle as can be; it must have two."""
    bounds = batch.cu_seqlens.tolist()
    middle = min(range(1, len(bounds) - 1), key=lambda index: abs(2 * bounds[index] - bounds[-1]))
    return _part(batch, 0, middle), _part(batch, middle, len(bounds) - 1)


def _part(batch: Batch, first: int, end: int) -> Batch:
    """Sequences `first` to `end` (exclusive)."""
    start, stop = int(batch.cu_seqlens[first]), int(batch.cu_seqlens[end])
    return Batch(
        input_ids=batch.input_ids[:, start:stop],
        position_ids=batch.position_ids[:, start:stop],
        cu_seqlens=batch.cu_seqlens[first : end + 1] - start,
        targets=batch.targets[:, start:stop],
        weights=batch.weights[:, start:stop],
        row_ids=batch.row_ids[first:end],
    )
