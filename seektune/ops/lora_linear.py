"""y = x Wᵀ + bias + s (drop(x) Aᵀ) Bᵀ: a frozen linear and its low-rank term as one autograd function.

Plain autograd keeps x, drop(x), x Aᵀ and adds full-size terms one by one. Here x, x Aᵀ and (with dropout)
one byte per element are kept, and every sum is accumulated into the buffer of the product before it.

Shapes: T tokens (all leading dimensions), I in, O out, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from seektune.ops.precision import check_dtype, check_frozen, compute_dtype


class Projection(NamedTuple):
    """One frozen linear and its low-rank term; `lora_a` and `lora_b` are None where it has none."""

    weight: Tensor  # (O, I)
    bias: Tensor | None = None  # (O,)
    lora_a: Tensor | None = None  # (R, I)
    lora_b: Tensor | None = None  # (O, R)
    scaling: float = 1.0
    dropout: float = 0.0


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """x Wᵀ + bias + s (drop(x) Aᵀ) Bᵀ with gradients for x, A and B only.

    x (…, I), weight (O, I), lora_a (R, I), lora_b (O, R) → (…, O), computed in the autocast dtype, or x's.
    A and B are cast for the products; their gradients come back in their own dtype. `dropout` > 0 is
    applied as it stands: pass 0 outside training.
    """
    return lora_linears(x, [Projection(weight, bias, lora_a, lora_b, scaling, dropout)])[0]


def lora_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """The formula, by plain autograd; it draws the same dropout mask."""
    low = F.linear(F.dropout(x, dropout), lora_a.to(x.dtype))
    return F.linear(x, weight, bias) + scaling * F.linear(low, lora_b.to(x.dtype))


def lora_linears(x: Tensor, projections: Sequence[Projection]) -> tuple[Tensor, ...]:
    """Several projections of one x: it is kept once and its gradient is summed in one buffer.

    Each projection draws its own dropout mask, in order.
    """
    for projection in projections:
        check_frozen(projection.weight, projection.bias)
        check_dtype(x, projection.weight, projection.bias)
    factors, tensors = flatten(projections)
    outputs: tuple[Tensor, ...] = _LoraLinears.apply(x.to(compute_dtype(x)), factors, *tensors)
    return outputs


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Any, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        results = [project(rows, projection) for projection in unflatten(factors, tensors)]
        ctx.save_for_backward(x, *tensors, *(tensor for _, *both in results for tensor in both))
        ctx.factors = factors
        return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y, _, _ in results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *saved = ctx.saved_tensors
        count = 4 * len(ctx.factors)
        rows = x.reshape(-1, x.shape[-1])
        dx = None
        gradients: list[Tensor | None] = []
        for i, projection in enumerate(unflatten(ctx.factors, saved[:count])):
            grad = grads[i].reshape(-1, grads[i].shape[-1])
            low, kept = saved[count + 2 * i : count + 2 * i + 2]
            up = low_grad(grad, projection)
            if ctx.needs_input_grad[0]:
                dx = add_input_grad(dx, grad, up, projection, kept)
            gradients += [None, None, *lora_grads(grad, up, rows, low, projection, kept)]
        return (dx.view_as(x) if dx is not None else None, None, *gradients)


def flatten(projections: Sequence[Projection]) -> tuple[list[tuple[float, float]], list[Tensor | None]]:
    """(scaling, dropout) of each, and all tensors in one list, as `autograd.Function.apply` wants them."""
    tensors = [tensor for p in projections for tensor in (p.weight, p.bias, p.lora_a, p.lora_b)]
    return [(p.scaling, p.dropout) for p in projections], tensors


def unflatten(factors: Sequence[tuple[float, float]], tensors: Sequence[Any]) -> list[Projection]:
    """The inverse of `flatten`."""
    fours = zip(*(tensors[i::4] for i in range(4)), strict=True)
    return [
        Projection(*four)._replace(scaling=s, dropout=p) for four, (s, p) in zip(fours, factors, strict=True)
    ]


def project(rows: Tensor, p: Projection) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(T, I) → y (T, O), x Aᵀ (T, R) and the mask of what dropout kept (T, I)."""
    dtype = rows.dtype
    y = F.linear(rows, p.weight.to(dtype), None if p.bias is None else p.bias.to(dtype))
    if p.lora_a is None or p.lora_b is None:
        return y, None, None
    # The same random numbers as F.dropout draws, in a quarter of the memory.
    kept = torch.empty_like(rows, dtype=torch.bool).bernoulli_(1 - p.dropout) if p.dropout else None
    low = _drop(rows, kept) @ p.lora_a.to(dtype).t()
    y.addmm_(low, p.lora_b.to(dtype).t(), alpha=_gain(p))
    return y, low, kept


def low_grad(grad: Tensor, p: Projection) -> Tensor | None:
    """(T, O) → the gradient that reaches drop(x) Aᵀ, without its scaling (T, R)."""
    return None if p.lora_b is None else grad @ p.lora_b.to(grad.dtype)


def add_input_grad(
    dx: Tensor | None, grad: Tensor, up: Tensor | None, p: Projection, kept: Tensor | None
) -> Tensor:
    """Add this projection's part to dx (T, I), or start it."""
    weight = p.weight.to(grad.dtype)
    dx = grad @ weight if dx is None else dx.addmm_(grad, weight)
    if up is None or p.lora_a is None:
        return dx
    lora_a = p.lora_a.to(grad.dtype)
    if kept is None:
        return dx.addmm_(up, lora_a, alpha=_gain(p))
    return dx.add_((up @ lora_a).mul_(kept), alpha=_gain(p))


def lora_grads(
    grad: Tensor, up: Tensor | None, rows: Tensor, low: Tensor | None, p: Projection, kept: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of A (R, I) and B (O, R), in their own dtypes."""
    if up is None or low is None or p.lora_a is None or p.lora_b is None:
        return None, None
    d_a = up.t() @ _drop(rows, kept)
    d_b = (low.t() @ grad).t()  # (R, T) x (T, O) is up to twice as fast as its transpose on CPU
    return d_a.to(p.lora_a.dtype).mul_(_gain(p)), d_b.to(p.lora_b.dtype).mul_(_gain(p))


def _gain(p: Projection) -> float:
    return p.scaling / (1 - p.dropout)


def _drop(rows: Tensor, kept: Tensor | None) -> Tensor:
    return rows if kept is None else rows * kept
