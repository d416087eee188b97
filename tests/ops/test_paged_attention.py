from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seektune.ops.paged_attention import (
    Chunk,
    Decoding,
    attend_chunk,
    attend_decoding,
    paged_attention_reference,
)

PAGE, POOL, SCALING = 4, 11, 0.3
EXACT = {"rtol": 0.0, "atol": 1e-12}


def pools(heads: int, width: int, value_width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        torch.randn(POOL, PAGE, heads, w, dtype=torch.float64, generator=generator)
        for w in (width, value_width)
    )
    return keys, values


def scratch(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(keys, torch.nan), torch.full_like(values, torch.nan)


def mask(lengths: list[int], keys: int) -> Tensor:
    seen = torch.arange(keys) < torch.tensor(lengths)[:, None]
    return torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)


@pytest.mark.parametrize(("heads", "groups", "value_width"), [(1, 1, 8), (2, 3, 8), (3, 1, 8), (1, 4, 8)])
def test_decoding_together_equals_each_sequence_alone(heads: int, groups: int, value_width: int) -> None:
    keys, values = pools(heads, 8, value_width)
    lengths, tables = [1, 6, 9], [[7], [2, 5], [10, 0, 3]]
    q = torch.randn(3, heads * groups, 8, dtype=torch.float64)
    padded = torch.tensor([table + table[:1] * (3 - len(table)) for table in tables])
    group = Decoding(slice(0, 3), padded.flatten(), mask(lengths, 12)[:, None, None])
    out = attend_decoding(q, keys, values, group, SCALING, scratch(keys, values))
    for row, (length, table) in enumerate(zip(lengths, tables, strict=True)):
        alone = paged_attention_reference(
            q[row : row + 1], keys, values, torch.tensor(table), length - 1, SCALING
        )
        torch.testing.assert_close(out[row : row + 1], alone, **EXACT)


@pytest.mark.parametrize(("heads", "groups"), [(1, 4), (2, 3), (3, 1)])
@pytest.mark.parametrize(("past", "new"), [(1, 1), (3, 5), (8, 4)])
def test_a_chunk_behind_a_past_equals_the_formula(heads: int, groups: int, past: int, new: int) -> None:
    keys, values = pools(heads, 8, 8)
    pages = torch.tensor([4, 9, 1])[: -(-(past + new) // PAGE)]
    q = torch.randn(new, heads * groups, 8, dtype=torch.float64)
    chunk = Chunk(slice(0, new), pages, mask([past + 1 + i for i in range(new)], len(pages) * PAGE))
    out = attend_chunk(q, keys, values, chunk, SCALING, scratch(keys, values))
    alone = paged_attention_reference(q, keys, values, pages, past, SCALING)
    torch.testing.assert_close(out, alone, **EXACT)


def test_keys_may_serve_as_values() -> None:
    keys, _ = pools(1, 8, 8)
    q = torch.randn(1, 5, 8, dtype=torch.float64)
    pages = torch.tensor([3, 8])
    group = Decoding(slice(0, 1), pages, mask([7], 8)[:, None, None])
    alone = paged_attention_reference(q, keys, keys.clone(), pages, 6, SCALING)
    torch.testing.assert_close(
        attend_decoding(q, keys, keys, group, SCALING, scratch(keys, keys)), alone, **EXACT
    )


def test_what_a_mask_hides_may_hold_anything_finite() -> None:
    keys, values = pools(2, 8, 8)
    q = torch.randn(1, 4, 8, dtype=torch.float64)
    group = Decoding(slice(0, 1), torch.tensor([3, 8]), mask([5], 8)[:, None, None])
    before = attend_decoding(q, keys, values, group, SCALING, scratch(keys, values))
    keys[8, 1:], values[8, 1:] = 1e30, -1e30
    assert torch.equal(attend_decoding(q, keys, values, group, SCALING, scratch(keys, values)), before)
