"""Batches of many adapters: which rows form which product, and each product against its naive twin."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seektune.ops.multi_lora import mix_rows, mixed_terms, multi_lora_, multi_lora_reference, term

SLOTS, RANK, WIDTH, OUT = 6, 5, 7, 4
sequences = st.lists(st.tuples(st.integers(-1, SLOTS - 1), st.integers(0, 4)), max_size=12)
ranks_of_slots = st.lists(st.integers(0, RANK), min_size=SLOTS, max_size=SLOTS)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stacks(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return randn(SLOTS, RANK, WIDTH, seed=1, dtype=dtype), randn(SLOTS, RANK, OUT, seed=2, dtype=dtype)


def split(batch: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [slot for slot, _ in batch], [count for _, count in batch]


def by_hand(y: Tensor, x: Tensor, batch: list[tuple[int, int]], ranks: list[int]) -> Tensor:
    """Each row alone, with the matrices of its slot cut to its rank."""
    a, b = stacks(y.dtype)
    slots = [slot for slot, count in batch for _ in range(count)]
    rows = [
        y[i] + (a[s, : ranks[s]] @ x[i]) @ b[s, : ranks[s]] if s >= 0 else y[i] for i, s in enumerate(slots)
    ]
    return torch.stack(rows) if rows else y


@given(sequences)
def test_every_row_of_a_slot_is_in_its_segment_once_and_base_rows_in_none(batch):
    mix = mix_rows(*split(batch))
    rows = [slot for slot, count in batch for _ in range(count)]
    assert mix.tokens == len(rows)
    assert mix.slots.tolist() == rows
    assert [segment.slot for segment in mix.segments] == sorted({slot for slot in rows if slot >= 0})
    order = list(range(len(rows))) if mix.order is None else mix.order.tolist()
    assert len(set(order)) == len(order)
    for slot, start, stop in mix.segments:
        assert sorted(order[start:stop]) == [row for row, other in enumerate(rows) if other == slot]


@given(sequences)
def test_a_batch_in_the_order_of_its_slots_is_never_gathered(batch):
    ordered = sorted(batch, key=lambda sequence: sequence[0])
    assert mix_rows(*split(ordered)).order is None


@given(sequences, ranks_of_slots)
def test_a_mixed_batch_is_each_row_with_its_own_matrices(batch, ranks):
    mix = mix_rows(*split(batch))
    x, y = randn(mix.tokens, WIDTH, seed=3), randn(mix.tokens, OUT, seed=4)
    terms = mixed_terms(mix, ranks, *stacks())
    want = by_hand(y, x, batch, ranks)
    torch.testing.assert_close(multi_lora_reference(y, x, terms), want, rtol=0, atol=1e-12)
    got = multi_lora_(y.clone(), x, terms)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    untouched = [i for i, slot in enumerate(mix.slots.tolist()) if slot < 0 or not ranks[slot]]
    assert torch.equal(got[untouched], y[untouched])


@given(sequences, ranks_of_slots)
def test_no_product_has_padding_or_reads_a_slot_without_rows(batch, ranks):
    mix = mix_rows(*split(batch))
    a, b = stacks()
    used = {slot for slot, count in batch if slot >= 0 and count and ranks[slot]}
    read = 0
    for one in mixed_terms(mix, ranks, a, b):
        part_a, part_b = one.matrices()
        assert part_a.shape[:2] == part_b.shape[:2]
        assert one.a.untyped_storage().data_ptr() == a.untyped_storage().data_ptr()  # a view, not a copy
        assert len(torch.arange(mix.tokens)[one.rows]) % len(part_a) == 0
        read += part_a.numel() + part_b.numel()
    assert read == sum(ranks[slot] * (WIDTH + OUT) for slot in used)


@pytest.mark.parametrize("count", [1, 3])
def test_neighbouring_slots_of_one_length_and_rank_are_one_product(count):
    terms = mixed_terms(mix_rows([0, 1, 2, 3], [count] * 4), [2] * SLOTS, *stacks())
    assert [(one.rows, len(one.a), one.slots) for one in terms] == [(slice(0, 4 * count), 4, None)]


@pytest.mark.parametrize("slots", [[0, 2, 5], [5, 0, 2]], ids=["ordered", "gathered"])
def test_slots_that_are_no_neighbours_are_one_product_on_a_copy_of_theirs(slots):
    (only,) = mixed_terms(mix_rows(slots, [2] * 3), [3] * SLOTS, *stacks())
    a, b = stacks()
    torch.testing.assert_close(only.matrices(), (a[[0, 2, 5], :3], b[[0, 2, 5], :3]), rtol=0, atol=0)


def test_another_rank_another_length_and_a_base_row_end_a_product():
    ranks = [2, 3, 3, 3, 3, 3]
    terms = mixed_terms(mix_rows([0, 1, 2, -1, 3], [1, 1, 2, 1, 2]), ranks, *stacks())
    assert [len(one.a) for one in terms] == [1] * 4


def test_a_batch_of_one_adapter_takes_any_number_of_rows_in_one_plain_product():
    mix = mix_rows([4, 4], [2, 3])
    (only,) = mixed_terms(mix, [5] * SLOTS, *stacks())
    assert mix.whole
    assert only.rows == slice(None)
    x, y = randn(11, WIDTH), randn(11, OUT)
    want = by_hand(y, x, [(4, 11)], [5] * SLOTS)
    torch.testing.assert_close(multi_lora_(y.clone(), x, [only]), want, rtol=0, atol=1e-12)


def test_a_batch_with_a_base_row_is_not_whole():
    assert not mix_rows([4, -1], [2, 1]).whole
    assert not mix_rows([-1], [3]).whole


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        mix_rows([0], [-1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("slots", [[0, 1, 2, -1, 3], [3, 0, 3, -1, 1]], ids=["ordered", "gathered"])
def test_lower_precision_keeps_its_rounding(dtype, tolerance, slots):
    mix = mix_rows(slots, [3, 3, 1, 2, 1])
    x, y = randn(mix.tokens, WIDTH, dtype=dtype), randn(mix.tokens, OUT, seed=5, dtype=dtype)
    terms = mixed_terms(mix, [5, 5, 2, 3, 0, 0], *stacks(dtype))
    exact = [term(one.rows, *(m.double() for m in one.matrices())) for one in terms]
    want = multi_lora_reference(y.double(), x.double(), exact)
    torch.testing.assert_close(multi_lora_(y, x, terms).double(), want, rtol=0, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [[0, 1, 2, -1, 3], [3, 0, 3, -1, 1]], ids=["ordered", "gathered"])
def test_a_gpu_computes_the_same(slots):
    mix = mix_rows(slots, [3, 3, 1, 2, 1], "cuda")
    x, y = randn(mix.tokens, WIDTH).cuda(), randn(mix.tokens, OUT, seed=5).cuda()
    terms = mixed_terms(mix, [5, 5, 2, 3, 0, 0], *(stack.cuda() for stack in stacks()))
    want = multi_lora_reference(y, x, terms)
    torch.testing.assert_close(multi_lora_(y, x, terms), want, rtol=0, atol=1e-10)
