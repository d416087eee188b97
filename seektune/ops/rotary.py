"""Rotary position embedding (Su et al. 2021) by halves, as one autograd function that keeps cos and sin only.

[x₁, x₂] → [x₁ cos₁ − x₂ sin₁, x₂ cos₂ + x₁ sin₂]; the gradient is the transposed rotation.
Shapes: B rows, T tokens, h heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head of x (B, T, h, D) by cos and sin (B or 1, T, D); dtypes promote as in x * cos."""
    y: Tensor = _Rotary.apply(x, cos.unsqueeze(2), sin.unsqueeze(2))
    return y


def rotary_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The formula by plain autograd, as transformers' apply_rotary_pos_emb."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(2) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(2)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotate(x, cos, *sin.chunk(2, dim=-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, dim=-1)
        return _rotate(grad, cos, -second, -first).to(ctx.dtype), None, None


def _rotate(x: Tensor, cos: Tensor, sin_first: Tensor, sin_second: Tensor) -> Tensor:
    """[x₁ cos₁ − x₂ s₁, x₂ cos₂ + x₁ s₂] without a turned copy of x."""
    y = x * cos
    (x_first, x_second), (y_first, y_second) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    y_first.addcmul_(x_second, sin_first, value=-1)
    y_second.addcmul_(x_first, sin_second)
    return y
