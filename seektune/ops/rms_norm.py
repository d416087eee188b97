"""y = w · x / √(mean(x²) + ε) as one autograd function that keeps x and one number per row.

With ρ = 1 / √(mean(x²) + ε):  dx = ρ g w − x ρ³ ⟨g w, x⟩ / H. Shapes: T rows, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seektune.ops.precision import at_least_float32, check_frozen


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019) over the last dimension with a frozen weight, rounded as Llama's.

    x (…, H), weight (H,) → (…, H); statistics in float32 (float64 for float64).
    """
    check_frozen(weight)
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula by plain autograd, step for step as transformers' LlamaRMSNorm."""
    wide = at_least_float32(x)
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = at_least_float32(x)
        rho = wide.pow(2).mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rho)
        normed = (wide * rho).to(x.dtype)
        y: Tensor = normed.mul_(weight) if weight.dtype == x.dtype else normed * weight
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, rho = ctx.saved_tensors
        wide = at_least_float32(x)
        scaled = grad.to(wide.dtype) * weight
        inner = torch.linalg.vecdot(scaled, wide).unsqueeze(-1)
        dx = scaled.mul_(rho).addcmul_(wide, inner.mul_(rho.pow(3)).div_(-x.shape[-1]))
        return dx.to(x.dtype), None, None
