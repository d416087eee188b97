"""y = w · x / √(mean(x²) + ε) as one autograd function that keeps one tensor and one number per row.

With ρ = 1 / √(mean(x²) + ε) and n = x ρ:  dx = ρ (g w − n ⟨g w, n⟩ / H). Shapes: T rows, H hidden.
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
        normed = (wide * rho).to(x.dtype)
        y = normed.mul_(weight) if weight.dtype == x.dtype else normed * weight
        # The projections behind the norm keep y anyway, and x ρ = y / w: then x need not be kept as well.
        ctx.from_output = y.dtype == x.dtype == wide.dtype and y.device.type == "cpu" and bool(weight.all())
        ctx.save_for_backward(y if ctx.from_output else x, weight, rho)
        ctx.dtype = x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        kept, weight, rho = ctx.saved_tensors
        normed = kept / weight if ctx.from_output else at_least_float32(kept) * rho
        scaled = grad.to(normed.dtype) * weight
        inner = torch.linalg.vecdot(scaled, normed).unsqueeze(-1)
        dx = scaled.addcmul_(normed, inner.div_(-kept.shape[-1])).mul_(rho)
        return dx.to(ctx.dtype), None, None
