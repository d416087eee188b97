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
    flatten,
    lora_linear_reference,
    project,
    project_backward,
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
        *gate_and_up, down = unflatten(factors, tensors)
        (gate, up), kept = project(x.reshape(-1, x.shape[-1]), gate_and_up)
        (y,), kept_down = project(F.silu(gate).mul_(up), [down])
        ctx.save_for_backward(x, gate, up, *tensors, *kept, *kept_down)
        ctx.factors, ctx.kept_down = factors, len(kept_down)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, gate, up, *saved = ctx.saved_tensors
        *gate_and_up, down = unflatten(ctx.factors, saved[:12])
        kept, kept_down = saved[12 : len(saved) - ctx.kept_down], saved[len(saved) - ctx.kept_down :]

        silu = F.silu(gate)
        grad = grad.reshape(-1, grad.shape[-1])
        d_act, of_down = project_backward(silu * up, [down], kept_down, [grad], True)
        assert d_act is not None
        d_up = silu.mul_(d_act)
        d_gate = torch.ops.aten.silu_backward(d_act.mul_(up), gate)

        rows = x.reshape(-1, x.shape[-1])
        needs_dx = ctx.needs_input_grad[0]
        dx, of_gate_and_up = project_backward(rows, gate_and_up, kept, [d_gate, d_up], needs_dx)
        return (None if dx is None else dx.view_as(x), None, *of_gate_and_up, *of_down)
