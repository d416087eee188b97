"""down(silu(gate(x)) · up(x)) with low-rank terms on any of the three, as one autograd function.

Kept for backward: x, gate, up and the (T, R) products; the activation is made again, elementwise, and
dx is summed in one buffer. Shapes: T tokens, H hidden, I intermediate, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from seektune.ops.lora_linear import (
    Projection,
    add_input_grad,
    flatten,
    lora_grads,
    lora_linear_reference,
    low_grad,
    project,
    unflatten,
)
from seektune.ops.precision import check_dtype, check_frozen, compute_dtype


def gated_mlp(x: Tensor, gate: Projection, up: Projection, down: Projection) -> Tensor:
    """SwiGLU (Shazeer 2020) between frozen projections: x (…, H) → (…, H).

    gate and up (I, H), down (H, I); each draws its own dropout mask, in this order.
    """
    for projection in (gate, up, down):
        check_frozen(projection.weight, projection.bias)
        check_dtype(x, projection.weight, projection.bias)
    factors, tensors = flatten([gate, up, down])
    y: Tensor = _GatedMLP.apply(x.to(compute_dtype(x)), factors, *tensors)
    return y


def gated_mlp_reference(x: Tensor, gate: Projection, up: Projection, down: Projection) -> Tensor:
    """The formula, by plain autograd; it draws the same dropout masks."""
    return _linear(F.silu(_linear(x, gate)) * _linear(x, up), down)


def _linear(x: Tensor, p: Projection) -> Tensor:
    if p.lora_a is None or p.lora_b is None:
        return F.linear(x, p.weight, p.bias)
    return lora_linear_reference(x, p.weight, p.bias, p.lora_a, p.lora_b, p.scaling, p.dropout)


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Any, *tensors: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        p_gate, p_up, p_down = unflatten(factors, tensors)
        gate, *of_gate = project(rows, p_gate)
        up, *of_up = project(rows, p_up)
        y, *of_down = project(F.silu(gate).mul_(up), p_down)
        ctx.save_for_backward(x, gate, up, *of_gate, *of_up, *of_down, *tensors)
        ctx.factors = factors
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, gate, up, low_g, kept_g, low_u, kept_u, low_d, kept_d, *tensors = ctx.saved_tensors
        p_gate, p_up, p_down = unflatten(ctx.factors, tensors)
        rows, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])

        low = low_grad(grad, p_down)
        silu = F.silu(gate)
        of_down = lora_grads(grad, low, silu * up, low_d, p_down, kept_d) if low is not None else (None, None)
        d_act = add_input_grad(None, grad, low, p_down, kept_d)
        d_up = silu.mul_(d_act)
        d_gate = torch.ops.aten.silu_backward(d_act.mul_(up), gate)

        dx = None
        gradients: list[Tensor | None] = []
        for d_y, p, low_y, kept in ((d_gate, p_gate, low_g, kept_g), (d_up, p_up, low_u, kept_u)):
            low = low_grad(d_y, p)
            if ctx.needs_input_grad[0]:
                dx = add_input_grad(dx, d_y, low, p, kept)
            gradients += [None, None, *lora_grads(d_y, low, rows, low_y, p, kept)]
        return (None if dx is None else dx.view_as(x), None, *gradients, None, None, *of_down)
