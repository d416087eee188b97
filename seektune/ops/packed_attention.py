"""Causal attention inside each sequence of a ragged row: no padding, no mask, no cross-talk.

Shapes: h query heads, k key/value heads (h a multiple of k), T tokens of all sequences, D query/key width,
V value width (MLA: V ≤ D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seektune.ops.packed_attention_blocks import packed_attention_blocks
from seektune.ops.precision import compute_dtype


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scaling: float, dropout: float = 0.0
) -> Tensor:
    """softmax(q kᵀ · scaling) v, causal, sequence by sequence.

    q (1, h, T, D), k (1, k, T, D), v (1, k, T, V), cu_seqlens (S + 1,) from 0 to T → (1, h, T, V), laid out
    so that `.transpose(1, 2)` is contiguous.
    """
    width, lengths = v.shape[-1], cu_seqlens.diff().tolist()
    if not dropout and blocks_are_faster(q, k, v):
        return packed_attention_blocks(q, k, v, lengths, scaling)
    if width < q.shape[-1]:  # the fused kernels want equal widths; zero columns cost less than leaving them
        v = F.pad(v, (0, q.shape[-1] - width))
    # One split, not a slice per sequence: the gradient of a slice is a zero-filled tensor of full size.
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (q, k, v)), strict=True)
    outputs = [_causal(q, k, v, scaling, dropout).transpose(1, 2) for q, k, v in parts]
    return torch.cat(outputs, dim=1)[..., :width].transpose(1, 2)


def packed_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scaling: float, dropout: float = 0.0
) -> Tensor:
    """The formula over the whole row, with a block-diagonal causal mask."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    position = torch.arange(q.shape[2], device=q.device)
    sequence = torch.searchsorted(cu_seqlens[1:].long(), position, right=True)
    allowed = (sequence[:, None] == sequence[None, :]) & (position[:, None] >= position[None, :])
    scores = (q @ k.transpose(2, 3) * scaling).masked_fill(~allowed, -torch.inf)
    return F.dropout(scores.softmax(dim=-1), dropout) @ v


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
    )


def blocks_are_faster(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Narrow values on CPU: a fifth off forward and backward at 256 tokens, nothing lost at 64 or 1,024."""
    fine = compute_dtype(q) in (torch.float32, torch.float64)
    return fine and q.device.type == "cpu" and v.shape[-1] < q.shape[-1] and k.shape[1] == q.shape[1]
