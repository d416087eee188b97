"""silu(gate) · up as one autograd function that keeps gate and up only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (Shazeer 2020), elementwise; plain autograd would keep silu(gate) as well."""
    y: Tensor = _SwiGLU.apply(gate, up)
    return y


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """The formula, by plain autograd."""
    return F.silu(gate) * up


def swiglu_grads(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up."""
    d_gate = torch.ops.aten.silu_backward(grad * up, gate)
    return d_gate, F.silu(gate).mul_(grad)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return swiglu_grads(grad, *ctx.saved_tensors)
