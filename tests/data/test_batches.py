"""Ragged batches: every row once an epoch, whatever the shuffle, the packing and the number of ranks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.batches import Batches, batches, collate
from seektune.data.reading import read_records
from seektune.errors import DataError
from seektune.types import IGNORE, Batch, Example, Message, Sample


def example(row: int, words: int = 1) -> Example:
    return Example((Message("user", "why " * words), Message("assistant", "so")), f"rows:{row}")


def sample(row: int, length: int) -> Sample:
    return Sample(tuple(range(length)), (*[IGNORE] * (length - 1), row), f"rows:{row}", weight=1.0)


def of_lengths(lengths: list[int], **changes: Any) -> Batches:
    defaults = {"batch_size": 3, "pack_tokens": None, "seed": 0, "rank": 0, "world_size": 1, "shuffle": True}
    samples = tuple(sample(row, length) for row, length in enumerate(lengths))
    return Batches(samples=samples, too_long=(), **defaults | changes)


def rows_of(epoch: Any) -> list[tuple[str, ...]]:
    return [batch.row_ids for batch in epoch]


some_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=30)
groupings = st.one_of(
    st.builds(dict, batch_size=st.integers(1, 7)), st.builds(dict, pack_tokens=st.integers(12, 40))
)


@given(some_lengths, groupings, st.integers(1, 4), st.integers(), st.integers(0, 3), st.booleans())
def test_the_ranks_share_every_row_once_and_padding_weighs_nothing(
    lengths: list[int], grouping: dict[str, int], world_size: int, seed: int, epoch: int, shuffle: bool
) -> None:
    ranks = [
        of_lengths(lengths, **grouping, seed=seed, shuffle=shuffle, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(rank) for rank in ranks}) == 1
    seen: Counter[str] = Counter()
    weights = 0.0
    for rank in ranks:
        found = list(rank.epoch(epoch))
        assert len(found) == len(rank)
        for batch in found:
            weights += float(batch.weights.sum())
            seen.update(batch.row_ids if batch.weights.any() else ())
            assert batch.input_ids.shape[1] <= grouping.get("pack_tokens", 12 * 7)
            assert len(batch.row_ids) <= grouping.get("batch_size", len(lengths))
    assert seen == Counter(f"rows:{row}" for row in range(len(lengths)))
    assert weights == len(lengths)


@given(some_lengths, groupings, st.integers(), st.integers(0, 5))
def test_an_epoch_is_a_function_of_seed_and_number_alone(
    lengths: list[int], grouping: dict[str, int], seed: int, epoch: int
) -> None:
    used, fresh = (of_lengths(lengths, **grouping, seed=seed) for _ in range(2))
    for earlier in range(epoch):
        rows_of(used.epoch(earlier))
    assert rows_of(used.epoch(epoch)) == rows_of(fresh.epoch(epoch))


@given(some_lengths, groupings, st.integers(2, 4))
def test_the_order_does_not_depend_on_the_number_of_ranks(
    lengths: list[int], grouping: dict[str, int], world_size: int
) -> None:
    alone = rows_of(of_lengths(lengths, **grouping))
    ranks = [
        rows_of(of_lengths(lengths, **grouping, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    together = [row for step in zip(*ranks, strict=True) for row in step]
    assert together[: len(alone)] == alone


@given(some_lengths, groupings, st.integers(1, 3), st.integers(0, 20))
def test_an_epoch_can_be_taken_up_at_any_position(
    lengths: list[int], grouping: dict[str, int], world_size: int, start: int
) -> None:
    source = of_lengths(lengths, **grouping, world_size=world_size, rank=world_size - 1)
    assert rows_of(source.epoch(2, start)) == rows_of(source.epoch(2))[start:]


@given(some_lengths, groupings, st.integers(1, 3), st.booleans())
def test_the_longest_batch_is_that_of_the_epochs_asked_for(
    lengths: list[int], grouping: dict[str, int], epochs: int, shuffle: bool
) -> None:
    source = of_lengths(lengths, **grouping, shuffle=shuffle)
    met = [batch.input_ids.numel() for epoch in range(epochs) for batch in source.epoch(epoch)]
    assert source.longest(epochs) == max(met)


def test_seed_and_epoch_both_change_the_order_and_no_shuffle_keeps_it() -> None:
    lengths = [2] * 30
    orders = {
        tuple(rows_of(of_lengths(lengths, seed=seed).epoch(epoch))) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    still = of_lengths(lengths, shuffle=False)
    assert (
        rows_of(still)
        == rows_of(still.epoch(4))
        == [tuple(f"rows:{r + i}" for i in range(3)) for r in range(0, 30, 3)]
    )


@given(some_lengths)
def test_a_batch_says_where_each_of_its_sequences_lies(lengths: list[int]) -> None:
    samples = [replace(sample(row, length), weight=row + 0.5) for row, length in enumerate(lengths)]
    batch = collate(samples)
    total = sum(lengths)
    assert (
        batch.input_ids.shape
        == batch.position_ids.shape
        == batch.targets.shape
        == batch.weights.shape
        == (1, total)
    )
    assert (batch.input_ids.dtype, batch.cu_seqlens.dtype, batch.weights.dtype) == (
        torch.int64,
        torch.int32,
        torch.float32,
    )
    assert [end - start for start, end in pairwise(batch.cu_seqlens.tolist())] == lengths
    for one, sequence in zip(samples, batch.sequences(), strict=True):
        assert tuple(batch.input_ids[0, sequence].tolist()) == one.input_ids
        assert tuple(batch.targets[0, sequence].tolist()) == one.targets
        assert batch.position_ids[0, sequence].tolist() == list(range(len(one)))
        assert batch.weights[0, sequence].tolist() == [
            one.weight * (target != IGNORE) for target in one.targets
        ]
    assert batch.row_ids == tuple(one.row_id for one in samples)


def test_records_become_batches_of_so_many_samples(chat: SimpleNamespace) -> None:
    found = list(batches([example(row) for row in range(5)], chat, batch_size=2, shuffle=False))
    assert [batch.row_ids for batch in found] == [("rows:0", "rows:1"), ("rows:2", "rows:3"), ("rows:4",)]
    learnt = [chat.tokenizer.decode(b.targets[b.targets != IGNORE]) for b in found]
    assert learnt == ["so<｜end▁of▁sentence｜>" * 2] * 2 + ["so<｜end▁of▁sentence｜>"]


def test_a_row_too_long_is_counted_and_named_never_cut(chat: SimpleNamespace) -> None:
    whole = batches([example(0), example(1, words=50), example(2)], chat)
    limit = len(whole.samples[0]) + 1  # the end token is a target only, and counts
    kept = batches([example(0), example(1, words=50), example(2)], chat, max_length=limit)
    assert kept.too_long == ("rows:1",)
    assert [one.row_id for one in kept.samples] == ["rows:0", "rows:2"]
    with pytest.raises(
        DataError, match=f"all 2 rows are longer than max_length {limit - 1}; the shortest has {limit} "
    ):
        batches([example(0), example(2)], chat, max_length=limit - 1)


def test_no_records_and_a_budget_below_a_row_are_refused(chat: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="no records"):
        batches([], chat)
    with pytest.raises(DataError, match="rows:1 has 55 tokens, more than pack_tokens 20: raise pack_tokens"):
        batches([example(0), example(1, words=50)], chat, pack_tokens=20)


def test_medical_questions_fill_their_rows(chat: SimpleNamespace, real_data: Path) -> None:
    records = read_records(real_data / "medqa/train_subset_4opt.jsonl", prompt_prefix="[MEDICAL] 问题:")
    packed = batches(records, chat, pack_tokens=2048, seed=3)
    tokens = sum(batch.input_ids.shape[1] for batch in packed)
    assert tokens / (2048 * len(packed)) > 0.97
    assert sorted(name for batch in packed for name in batch.row_ids) == sorted(row.row_id for row in records)
    batch: Batch = next(iter(packed))
    for sequence in batch.sequences():
        assert batch.input_ids[0, sequence.start] == chat.tokenizer.bos_token_id
        assert batch.targets[0, sequence.stop - 1] == chat.tokenizer.eos_token_id
