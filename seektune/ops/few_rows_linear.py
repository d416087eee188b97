"""y = x Wᵀ + bias for few rows, as decoding has them, without gradients.

On CPU the library's float32 product of few rows is slow. Up to eight rows are one compiled pass over W where
there is a compiler (`ops.streamed_linear`). Else it slows with the number of outputs; a batched product over
blocks of outputs takes the library's path for small products and does not (2 to 48 rows of 576 inputs: as
fast at 2,048 outputs, 1.2 to 1.5 times at 12,288 and 49,152).

Shapes: T rows, I in, O out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from seektune.ops.streamed_linear import streamed_linear, streams

BLOCK = 64
"""Outputs of one block; at least half as many must divide O."""

FEW = range(2, 49)
"""Numbers of rows for which blocks are faster."""

WIDE = 4096
"""Outputs from which on they are."""


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias: x (…, I), weight (O, I), bias (O,) → (…, O); any device, dtype and number of rows."""
    rows = x.numel() // x.shape[-1]
    if x.dtype == weight.dtype and not torch.is_grad_enabled() and streams(weight, rows):
        return streamed_linear(x.reshape(rows, -1), weight, bias).view(*x.shape[:-1], -1)
    block = math.gcd(len(weight), BLOCK)
    worth = rows in FEW and len(weight) >= WIDE
    fits = x.dtype == torch.float32 and x.device.type == "cpu" and weight.is_contiguous()
    if not worth or not fits or 2 * block < BLOCK or torch.is_grad_enabled():
        return few_rows_linear_reference(x, weight, bias)
    blocks = weight.view(-1, block, weight.shape[-1])
    y = torch.bmm(x.reshape(1, rows, -1).expand(len(blocks), -1, -1), blocks.mT)
    y = y.transpose(0, 1).reshape(*x.shape[:-1], len(weight))
    return y if bias is None else y.add_(bias)


def helps(weight: Tensor) -> bool:
    """Whether some number of rows is faster with this weight than by the library."""
    return len(weight) >= WIDE or streams(weight, 1)


def few_rows_linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The library's own product."""
    return F.linear(x, weight, bias)
