"""Causal attention of new tokens over keys and values that lie in pages.

Shapes: T new tokens of all sequences, h query heads, k key/value heads (h a multiple of k), D width of
queries and keys, V of values, P tokens of a page, N sequences that decode together, M pages of the longest of
them, C new tokens of one chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Scratch = tuple[Tensor, Tensor]
"""Room for gathered keys (≥ pages, P, k, D) and values: fresh memory costs as much as copying."""


class Decoding(NamedTuple):
    """N sequences of similar length with one new token each."""

    rows: slice | Tensor  # of T
    pages: Tensor  # (N·M,) each sequence's pages, padded with any
    mask: Tensor  # (N, 1, 1, M·P) 0 where a key is seen, −inf elsewhere


class Chunk(NamedTuple):
    """Consecutive new tokens of one sequence that has earlier ones."""

    rows: slice  # of T
    pages: Tensor  # (M,)
    mask: Tensor  # (C, M·P) 0 where a key is seen, −inf elsewhere


def attend_decoding(
    q: Tensor, keys: Tensor, values: Tensor, group: Decoding, scaling: float, scratch: Scratch
) -> Tensor:
    """q (N, h, D), keys (pages, P, k, D), values (pages, P, k, V), which may be the keys → (N, h, V).

    The queries of the heads that share keys are rows of one product: nothing is repeated.
    """
    n, heads = q.shape[0], keys.shape[2]
    k, v = (held.transpose(1, 2) for held in _gathered(keys, values, group.pages, n, scratch))
    q = q.unflatten(1, (heads, -1))  # (N, k, h/k, D)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask, scale=scaling).flatten(1, 2)


def attend_chunk(
    q: Tensor, keys: Tensor, values: Tensor, chunk: Chunk, scaling: float, scratch: Scratch
) -> Tensor:
    """q (C, h, D), keys (pages, P, k, D), values (pages, P, k, V), which may be the keys → (C, h, V)."""
    k, v = (held.transpose(1, 2) for held in _gathered(keys, values, chunk.pages, 1, scratch))
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0),
        k,
        v,
        attn_mask=chunk.mask,
        scale=scaling,
        enable_gqa=q.shape[1] != keys.shape[2],
    )
    return out.squeeze(0).transpose(0, 1)


def paged_attention_reference(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, past: int, scaling: float
) -> Tensor:
    """One sequence by the formula: its new tokens q (C, h, D) see `past` keys and those up to themselves."""
    group = q.shape[1] // keys.shape[2]
    length = past + len(q)
    k, v = (held[pages].flatten(0, 1)[:length].repeat_interleave(group, 1) for held in (keys, values))
    scores = torch.einsum("chd,lhd->hcl", q, k) * scaling
    seen = torch.ones(len(q), length, dtype=torch.bool, device=q.device).tril(past)
    return torch.einsum("hcl,lhv->chv", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def _gathered(keys: Tensor, values: Tensor, pages: Tensor, n: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Keys and values of n sequences as (n, M·P, k, ·); copied once where both are one tensor."""
    pools = (keys,) if values is keys else (keys, values)
    held = [
        torch.index_select(pool, 0, pages, out=part[: len(pages)]).view(n, -1, *pool.shape[2:])
        for pool, part in zip(pools, scratch, strict=False)
    ]
    return held[0], held[-1]
