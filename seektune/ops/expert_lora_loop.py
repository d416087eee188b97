"""Expert LoRA, one expert after another: for CPU, where one expert's products already fill a core.

From gathering an expert's rows to adding its result back, everything stays in cache. The router's weight is
folded into the activation, so its gradient costs one dot product per row and no output is kept.

T tokens, K choices per token, E experts, N experts with LoRA, S rows in the order of the experts, L of them
with LoRA, C rows of one expert, H hidden width, I intermediate width, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seektune.ops.expert_routing import Gate, Lora, draw_masks, drop, gate_vjp, gated, sort_by_expert


class Call(NamedTuple):
    """The constants of one call."""

    slots: list[int]  # of each expert: its row of the LoRA tensors, −1 = none
    counts: list[int]  # of each expert: its rows
    scaling: float
    gate: Gate | None
    dropout: float
    dtype: torch.dtype  # of the products
    fine: torch.dtype  # of everything between and after them: at least fp32


class Hit(NamedTuple):
    """One expert that has rows."""

    expert: int
    slot: int
    rows: slice  # of S
    lora_rows: slice  # of L


class Product(NamedTuple):
    """One of the two products, of all experts: y = x Wᵀ + scaling · drop(x) Aᵀ Bᵀ."""

    weight: Tensor  # (E, out, in)
    a: Tensor  # (N, R, in)
    b: Tensor  # (N, out, R)
    low: Tensor  # (L, R): drop(x) Aᵀ, kept for the backward
    keep: Tensor | None  # (L, in): dropout's mask

    def forward(self, call: Call, hit: Hit, x: Tensor, out: Tensor | None = None) -> Tensor:
        """y (C, out), written to `out` where one is given."""
        y = torch.mm(x, self.weight[hit.expert].to(x.dtype).t(), out=out)
        if hit.slot >= 0:
            a, b, low = self.a[hit.slot].to(x.dtype), self.b[hit.slot].to(x.dtype), self.low[hit.lora_rows]
            torch.mm(self._drop(call, hit, x), a.t(), out=low)
            y.addmm_(low, b.t(), alpha=call.scaling)
        return y

    def backward(
        self, call: Call, hit: Hit, x: Tensor, d_y: Tensor, d_a: Tensor | None, d_b: Tensor | None
    ) -> Tensor:
        """d_x (C, in); writes this expert's row of d_a and d_b."""
        d_x = torch.mm(d_y, self.weight[hit.expert].to(x.dtype))
        if hit.slot >= 0:
            a, b = self.a[hit.slot].to(x.dtype), self.b[hit.slot].to(x.dtype)
            d_low = d_y.new_empty(len(d_y), b.shape[1]).addmm_(d_y, b, beta=0, alpha=call.scaling)
            if d_a is not None:
                _mm_into(d_a[hit.slot], d_low.t(), self._drop(call, hit, x), 1.0)
            if d_b is not None:
                _mm_into(d_b[hit.slot], d_y.t(), self.low[hit.lora_rows], call.scaling)
            if self.keep is None:
                d_x.addmm_(d_low, a)
            else:
                d_x += self._drop(call, hit, torch.mm(d_low, a))
        return d_x

    def _drop(self, call: Call, hit: Hit, x: Tensor) -> Tensor:
        return x if self.keep is None else drop(x, self.keep[hit.lora_rows], call.dropout)


def expert_lora_loop(
    hidden: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    lora: Lora,
    scaling: float,
    slots: Tensor | None,
    gate: Gate | None,
    dropout: float,
    dtype: torch.dtype,
) -> Tensor:
    """`expert_lora` with its arguments checked and the dtype of the products chosen."""
    experts = gate_up_proj.shape[0]
    counts = torch.bincount(top_k_index.reshape(-1), minlength=experts)[:experts].tolist()
    slot_of = list(range(experts)) if slots is None else slots.tolist()
    call = Call(slot_of, counts, scaling, gate, dropout, dtype, torch.promote_types(dtype, torch.float32))
    tensors = (hidden, top_k_weights, *lora)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        out: Tensor = _ExpertLora.apply(*tensors, gate_up_proj, down_proj, top_k_index, call)
        return out
    return _forward(call, hidden, top_k_weights, top_k_index, *_products(call, lora, gate_up_proj, down_proj))


class _ExpertLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        hidden, weights, *lora, gate_up_proj, down_proj, index, call = inputs
        first, second = _products(call, tuple(lora), gate_up_proj, down_proj)
        gate_up_S = hidden.new_empty(sum(call.counts), gate_up_proj.shape[1], dtype=call.dtype)
        out = _forward(call, hidden, weights, index, first, second, gate_up_S)
        ctx.call = call
        ctx.save_for_backward(hidden, weights, index, gate_up_S, *first, *second)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weights, index, gate_up_S, *products = ctx.saved_tensors
        first, second = Product(*products[:5]), Product(*products[5:])
        lora = (first.a, first.b, second.a, second.b)
        d_lora = [
            torch.zeros_like(tensor) if needed else None
            for tensor, needed in zip(lora, ctx.needs_input_grad[2:6], strict=True)
        ]
        call = ctx.call
        d_hidden, d_weights = _backward(call, d_out, hidden, weights, index, first, second, gate_up_S, d_lora)
        return d_hidden, d_weights, *d_lora, None, None, None, None


def _products(call: Call, lora: Lora, gate_up_proj: Tensor, down_proj: Tensor) -> tuple[Product, Product]:
    rows = sum(count for count, slot in zip(call.counts, call.slots, strict=True) if slot >= 0)
    keeps = draw_masks(lora, rows, call.dropout)
    lows = gate_up_proj.new_empty(2, rows, lora[0].shape[1], dtype=call.dtype)
    return (
        Product(gate_up_proj, lora[0], lora[1], lows[0], keeps[0]),
        Product(down_proj, lora[2], lora[3], lows[1], keeps[1]),
    )


def _hits(call: Call) -> Iterator[Hit]:
    start = lora_start = 0
    for expert, (count, slot) in enumerate(zip(call.counts, call.slots, strict=True)):
        if count:
            lora_stop = lora_start + count * (slot >= 0)
            yield Hit(expert, slot, slice(start, start + count), slice(lora_start, lora_stop))
            start, lora_start = start + count, lora_stop


def _forward(
    call: Call,
    hidden: Tensor,
    weights: Tensor,
    index: Tensor,
    first: Product,
    second: Product,
    gate_up_S: Tensor | None = None,
) -> Tensor:
    order, tokens = sort_by_expert(index)
    x_T, w_S = hidden.to(call.dtype), weights.reshape(-1)[order, None].to(call.fine)
    out = hidden.new_zeros(hidden.shape, dtype=call.fine)
    for hit in _hits(call):
        token = tokens[hit.rows]
        gate_up = first.forward(call, hit, x_T[token], None if gate_up_S is None else gate_up_S[hit.rows])
        act = gated(gate_up.to(call.fine), call.gate) * w_S[hit.rows]
        y = second.forward(call, hit, act.to(call.dtype))
        out.index_add_(0, token, y.to(call.fine))
    return out.to(hidden.dtype)


def _backward(
    call: Call,
    d_out: Tensor,
    hidden: Tensor,
    weights: Tensor,
    index: Tensor,
    first: Product,
    second: Product,
    gate_up_S: Tensor,
    d_lora: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    order, tokens = sort_by_expert(index)
    x_T, d_out_T, w_S = (
        hidden.to(call.dtype),
        d_out.to(call.dtype),
        weights.reshape(-1)[order, None].to(call.fine),
    )
    d_hidden, d_w_S = hidden.new_zeros(hidden.shape, dtype=call.fine), torch.zeros_like(w_S)
    for hit in _hits(call):
        token, w = tokens[hit.rows], w_S[hit.rows]
        act, act_backward = gate_vjp(gate_up_S[hit.rows].to(call.fine), call.gate)
        d_y = d_out_T[token]
        d_act = second.backward(call, hit, (act * w).to(call.dtype), d_y, *d_lora[2:]).to(call.fine)
        d_w_S[hit.rows, 0] = torch.linalg.vecdot(d_act, act)
        d_gate_up = act_backward(d_act * w).to(call.dtype)
        d_x = first.backward(call, hit, x_T[token], d_gate_up, *d_lora[:2])
        d_hidden.index_add_(0, token, d_x.to(call.fine))
    d_weights = torch.empty_like(weights).reshape(-1).index_copy_(0, order, d_w_S[:, 0].to(weights.dtype))
    return d_hidden.to(hidden.dtype), d_weights.view_as(weights)


def _mm_into(out: Tensor, left: Tensor, right: Tensor, scaling: float) -> None:
    if out.dtype == left.dtype:
        out.addmm_(left, right, beta=0, alpha=scaling)
    else:
        out.copy_(torch.mm(left, right)).mul_(scaling)
