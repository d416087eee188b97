"""y = x Wᵀ + bias + s (drop(x) Aᵀ) Bᵀ: a frozen linear and its low-rank term as one autograd function.

Plain autograd keeps x, drop(x), x Aᵀ and adds full-size terms one by one. Here x, x Aᵀ and (with dropout)
one byte per element are kept, and every sum is accumulated into the buffer of the product before it.

Shapes: T tokens (all leading dimensions), I in, O out, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        outputs, kept = project(x.reshape(-1, x.shape[-1]), unflatten(factors, tensors))
        ctx.save_for_backward(x, *tensors, *kept)
        ctx.factors = factors
        return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *saved = ctx.saved_tensors
        count = 4 * len(ctx.factors)
        dx, gradients = project_backward(
            x.reshape(-1, x.shape[-1]),
            unflatten(ctx.factors, saved[:count]),
            saved[count:],
            [grad.reshape(-1, grad.shape[-1]) for grad in grads],
            ctx.needs_input_grad[0],
        )
        return (None if dx is None else dx.view_as(x), None, *gradients)


def flatten(projections: Sequence[Projection]) -> tuple[list[tuple[float, float]], list[Tensor | None]]:
    """(scaling, dropout) of each, and all tensors in one list, as `autograd.Function.apply` wants them."""
    tensors = [tensor for p in projections for tensor in (p.weight, p.bias, p.lora_a, p.lora_b)]
    return [(p.scaling, p.dropout) for p in projections], tensors


def unflatten(factors: Sequence[tuple[float, float]], tensors: Sequence[Any]) -> list[Projection]:
    """The inverse of `flatten`."""
    fours = zip(*(tensors[i::4] for i in range(4)), strict=True)
    pairs = zip(fours, factors, strict=True)
    return [Projection(*four)._replace(scaling=s, dropout=p) for four, (s, p) in pairs]


def project(rows: Tensor, projections: Sequence[Projection]) -> tuple[list[Tensor], list[Tensor | None]]:
    """rows (T, I) → every y (T, O); to keep, of each group: s · drop(x) Aᵀ (T, R) and the mask (T, I)."""
    started: dict[int, Tensor] = {}
    kept: list[Tensor | None] = []
    for group in _groups(projections):
        dropout = group[0].dropout
        # The same random numbers as F.dropout draws, in a quarter of the memory.
        mask = torch.empty_like(rows, dtype=torch.bool).bernoulli_(1 - dropout) if dropout else None
        low = _drop(rows, mask) @ _joined(group, rows.dtype).t()
        for term, part in _parts(low, group):
            part.mul_(term.gain)
            started[term.number] = _affine(part, term.b, projections[term.number].bias)
        kept += [low, mask]
    # The base's product is added to the small term: in half precision that rounds less than the reverse.
    outputs = []
    for i, p in enumerate(projections):
        weight = p.weight.to(rows.dtype)
        outputs.append(started[i].addmm_(rows, weight.t()) if i in started else _affine(rows, weight, p.bias))
    return outputs, kept


def project_backward(
    rows: Tensor,
    projections: Sequence[Projection],
    kept: Sequence[Tensor | None],
    grads: Sequence[Tensor],
    needs_dx: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of every y (T, O) → of rows (T, I), if asked, and of each weight, bias (None), A and B.

    A and B that do not require gradients get None: where their layer rests they cost no product.
    """
    dx: Tensor | None = None
    gradients: list[Tensor | None] = [None] * (4 * len(projections))
    for group, low, mask in zip(_groups(projections), kept[::2], kept[1::2], strict=True):
        assert low is not None
        up = torch.empty_like(low)
        for (term, up_part), (_, low_part) in zip(_parts(up, group), _parts(low, group), strict=True):
            grad = grads[term.number]
            torch.mm(grad, term.b.to(grad.dtype), out=up_part)
            up_part.mul_(term.gain)
            if term.b.requires_grad:
                # On CPU (R, T) x (T, O) is up to twice as fast as its transpose.
                gradients[4 * term.number + 3] = (low_part.t() @ grad).t().to(term.b.dtype)
        if any(term.a.requires_grad for term in group):
            of_a = (up.t() @ _drop(rows, mask)).split([len(term.a) for term in group])
            for term, d_a in zip(group, of_a, strict=True):
                gradients[4 * term.number + 2] = d_a.to(term.a.dtype)
        if needs_dx:
            share = up @ _joined(group, up.dtype)
            share = share if mask is None else share.mul_(mask)
            dx = share if dx is None else dx.add_(share)
    if needs_dx:
        for p, grad in zip(projections, grads, strict=True):
            weight = p.weight.to(grad.dtype)
            dx = grad @ weight if dx is None else dx.addmm_(grad, weight)
    return dx, gradients


class _Term(NamedTuple):
    """The low-rank term of the projection of that number."""

    number: int
    a: Tensor
    b: Tensor
    gain: float  # scaling / (1 − dropout)
    dropout: float


def _groups(projections: Sequence[Projection]) -> list[list[_Term]]:
    """The terms that share their input: all those without dropout; each other one has its own mask."""
    terms = [
        _Term(i, p.lora_a, p.lora_b, p.scaling / (1 - p.dropout), p.dropout)
        for i, p in enumerate(projections)
        if p.lora_a is not None and p.lora_b is not None
    ]
    shared = [term for term in terms if not term.dropout]
    return ([shared] if shared else []) + [[term] for term in terms if term.dropout]


def _joined(group: Sequence[_Term], dtype: torch.dtype) -> Tensor:
    """The A of the group, one below the other: x is read once for all of them."""
    return torch.cat([term.a.to(dtype) for term in group])


def _parts(joined: Tensor, group: Sequence[_Term]) -> Iterator[tuple[_Term, Tensor]]:
    """The columns of each term of the group."""
    return zip(group, joined.split([len(term.a) for term in group], dim=1), strict=True)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _drop(rows: Tensor, mask: Tensor | None) -> Tensor:
    return rows if mask is None else rows * mask
