from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from seektune.errors import ModelError
from seektune.generation.cache import KVCache, Pass
from seektune.generation.request import Request
from seektune.generation.sequence import Sequence
from seektune.ops.paged_attention import paged_attention_reference

PAGE, HEADS, GROUP, WIDTH = 4, 2, 3, 8


def cache(value_width: int = WIDTH) -> KVCache:
    shape = (2, HEADS, WIDTH, value_width)
    return KVCache(shape, 40, PAGE, torch.float64, torch.device("cpu"))


def sequence(index: int, pages: list[int], computed: int, tokens: int) -> Sequence:
    item = Sequence(Request(id=str(index), prompt=(7,) * tokens), 99, index)
    item.table.pages = pages
    item.computed = computed
    return item


def test_one_pass_over_a_mix_equals_each_sequence_alone() -> None:
    """Two decode, one is fresh, one is in the middle of its prompt; layer 1 only."""
    held = cache()
    chunks = [
        (sequence(0, [3, 9, 4], 9, 10), 1),
        (sequence(1, [0, 5], 0, 6), 6),
        (sequence(2, [1], 2, 3), 1),
        (sequence(3, [8, 7, 6], 5, 12), 4),
    ]
    for pool in (held.keys[1], held.values[1]):
        pool.normal_()
    paged = held.plan(chunks)
    assert [group.rows for group in paged.decoding] == [slice(7, 8), slice(0, 1)]
    q, k, v = (torch.randn(12, n, WIDTH, dtype=torch.float64) for n in (HEADS * GROUP, HEADS, HEADS))
    out = paged.attend(1, q, k, v, 0.3)
    start = 0
    for item, count in chunks:
        rows = slice(start, start + count)
        pages = torch.tensor(item.table.pages)
        written = held.keys[1][pages].flatten(0, 1)[item.computed : item.computed + count]
        assert torch.equal(written, k[rows])
        alone = paged_attention_reference(q[rows], held.keys[1], held.values[1], pages, item.computed, 0.3)
        torch.testing.assert_close(out[rows], alone, rtol=0, atol=1e-12)
        start = rows.stop
    assert not held.keys[0].any()


def test_sequences_of_like_length_decode_in_one_call() -> None:
    pages = iter(range(40))
    lengths = (1, 3, 17, 18, 20, 40)
    chunks = [
        (sequence(i, [next(pages) for _ in range(-(-(n + 1) // PAGE))], n, n + 1), 1)
        for i, n in enumerate(lengths)
    ]
    groups = cache().plan(chunks).decoding
    assert [(group.rows.start, group.rows.stop) for group in groups] == [(0, 2), (2, 5), (5, 6)]
    assert [group.mask.shape[-1] for group in groups] == [4, 24, 44]


def test_with_no_width_for_values_the_keys_serve_as_values() -> None:
    held = cache(value_width=0)
    assert held.values is held.keys


def test_a_sliding_window_is_refused() -> None:
    paged = Pass(cache(), [(sequence(0, [0], 0, 2), 2)])
    with pytest.raises(ModelError, match="layer 3 has a sliding window"):
        paged.layer(SimpleNamespace(layer_idx=3, sliding_window=4))
