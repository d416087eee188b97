"""Packed causal attention by blocks of rows and batched products: for CPU, where keys are wider than values.

Torch's fused kernel wants equal widths, so values would be padded, and outputs and gradients cut and joined
again. Here a block multiplies only the keys up to its last row, its scores stay in cache and are computed
again in the backward, and every result is written once, where it belongs in the row.

Shapes: h heads, T tokens of all sequences, D query/key width, V value width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_ROWS = 64
"""Rows of one block: few enough to skip most keys that no row may see, enough to fill a product."""


def packed_attention_blocks(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scaling: float
) -> Tensor:
    """`packed_attention` without dropout, in float32 or float64 and with as many key as query heads.

    q, k (1, h, T, D), v (1, h, T, V); `lengths` of the sequences sum to T → (1, h, T, V).
    """
    out: Tensor = _Blocks.apply(*(x.squeeze(0) for x in (q, k, v)), lengths, scaling)
    return out.unsqueeze(0)


class _Blocks(torch.autograd.Function):
    """The same without the leading 1."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scaling: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.lengths, ctx.scaling = lengths, scaling
        out = _tokens_first(v)
        for rows, keys, _ in _blocks(lengths):
            torch.bmm(_probabilities(q[:, rows], k[:, keys], scaling), v[:, keys], out=out[:, rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v), scaling = ctx.saved_tensors, ctx.scaling
        d_q, d_k, d_v = map(_tokens_first, (q, k, v))
        for rows, keys, first in _blocks(ctx.lengths):
            beta = 0 if first else 1
            p = _probabilities(q[:, rows], k[:, keys], scaling)
            d_p = torch.bmm(d_out[:, rows], v[:, keys].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype).mul_(scaling)
            torch.bmm(d_scores, k[:, keys], out=d_q[:, rows])
            d_k[:, keys].baddbmm_(d_scores.transpose(1, 2), q[:, rows], beta=beta)
            d_v[:, keys].baddbmm_(p.transpose(1, 2), d_out[:, rows], beta=beta)
        return d_q, d_k, d_v, None, None


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, slice, bool]]:
    """Rows, the keys they may see, and whether this is a sequence's first block: the one that sees all keys.

    Its products overwrite the gradients of the keys, so that these need no zeros; the others add to them.
    """
    start = 0
    for length in lengths:
        for row in reversed(range(0, length, BLOCK_ROWS)):
            stop = min(row + BLOCK_ROWS, length)
            yield slice(start + row, start + stop), slice(start, start + stop), stop == length
        start += length


def _probabilities(q: Tensor, k: Tensor, scaling: float) -> Tensor:
    """Causal softmax of the last rows over all keys: q (h, r, D), k (h, L, D), r ≤ L → (h, r, L)."""
    rows = q.shape[1]
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=scaling)
    future = torch.ones(rows, rows, dtype=torch.bool, device=q.device).triu_(1)
    scores[..., -rows:].masked_fill_(future, -torch.inf)
    return scores.softmax(dim=-1)


def _tokens_first(x: Tensor) -> Tensor:
    """Empty, of x's shape (h, T, ·), laid out so that `.transpose(0, 1)` is contiguous."""
    heads, tokens, width = x.shape
    return x.new_empty(tokens, heads, width).transpose(0, 1)
