"""Expert LoRA, one expert after another: for CPU, where one expert's products already fill a core.

The rows of a few experts at a time are gathered, computed and added back while they are in cache. The
router's weight is folded into the activation, so its gradient is one dot product per row and no output is
kept for it.

T tokens, K choices per token, E experts, N experts with LoRA, S rows in the order of the experts, L of them
with LoRA, C rows of one block, H hidden width, I intermediate width, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seektune.ops.expert_routing import Gate, Lora, draw_masks, drop, gate_vjp, gated, sort_by_expert

BLOCK_ROWS = 512
"""Rows gathered, gated and added back at once: few enough for the cache, enough to amortise the calls."""


class Call(NamedTuple):
    """The constants of one call."""

    slots: list[int]  # of each expert: its row of the LoRA tensors, −1 = none
    counts: list[int]  # of each expert: its rows
    scaling: float
    gate: Gate | None
    dropout: float
    dtype: torch.dtype  # of the products
    fine: torch.dtype  # of everything between and after them: at least fp32


class Block(NamedTuple):
    """Consecutive experts whose rows are computed together; experts without rows are in no block."""

    experts: list[int]
    slots: list[int]
    counts: list[int]
    lora_counts: list[int]  # 0 for an expert without LoRA
    rows: slice  # of S
    lora_rows: slice  # of L


class Product:
    """One of the two products, of all experts: y = x Wᵀ + scaling · drop(x) Aᵀ Bᵀ."""

    def __init__(self, call: Call, *tensors: Tensor) -> None:
        weight, a, b, self.low, *keep = tensors
        self.call = call
        # One matrix per expert: unbind makes a view for a fraction of what indexing costs.
        self.weight, self.a, self.b = weight.unbind(), a.unbind(), b.unbind()  # (out, in), (R, in), (out, R)
        self.keep = keep[0] if keep else None  # (L, in): dropout's mask

    def forward(self, block: Block, x_C: Tensor, y_C: Tensor) -> None:
        """Write y of a block's rows, and drop(x) Aᵀ for the backward."""
        xs, ys = x_C.split(block.counts), y_C.split(block.counts)
        for expert, x, y in zip(block.experts, xs, ys, strict=True):
            torch.mm(x, self._cast(self.weight[expert]).t(), out=y)
        for slot, x, y, low, keep in zip(block.slots, xs, ys, *self._lora_rows(block), strict=True):
            if slot >= 0:
                torch.mm(drop(x, keep, self.call.dropout), self._cast(self.a[slot]).t(), out=low)
                y.addmm_(low, self._cast(self.b[slot]).t(), alpha=self.call.scaling)

    def backward(
        self, block: Block, x_C: Tensor, d_y_C: Tensor, d_a: Sequence[Tensor], d_b: Sequence[Tensor]
    ) -> Tensor:
        """d_x of a block's rows; writes its experts' matrices of d_a and d_b, where these are wanted."""
        d_x_C = torch.empty_like(x_C)
        xs, d_ys, d_xs = (t.split(block.counts) for t in (x_C, d_y_C, d_x_C))
        for expert, d_y, d_x in zip(block.experts, d_ys, d_xs, strict=True):
            torch.mm(d_y, self._cast(self.weight[expert]), out=d_x)
        lora_rows = self._lora_rows(block)
        for slot, x, d_y, d_x, low, keep in zip(block.slots, xs, d_ys, d_xs, *lora_rows, strict=True):
            if slot < 0:
                continue
            a, b = self._cast(self.a[slot]), self._cast(self.b[slot])
            d_low = torch.empty_like(low).addmm_(d_y, b, beta=0, alpha=self.call.scaling)
            if d_a:
                _mm_into(d_a[slot], d_low.t(), drop(x, keep, self.call.dropout), 1.0)
            if d_b:
                _mm_into(d_b[slot], d_y.t(), low, self.call.scaling)
            if keep is None:
                d_x.addmm_(d_low, a)
            else:
                d_x += drop(torch.mm(d_low, a), keep, self.call.dropout)
        return d_x_C

    def _lora_rows(self, block: Block) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        """Of each expert: its rows of `low` and of the mask; empty without LoRA."""
        lows = self.low[block.lora_rows].split(block.lora_counts)
        if self.keep is None:
            return lows, [None] * len(lows)
        return lows, self.keep[block.lora_rows].split(block.lora_counts)

    def _cast(self, matrix: Tensor) -> Tensor:
        return matrix if matrix.dtype == self.call.dtype else matrix.to(self.call.dtype)


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
    fine = torch.promote_types(dtype, torch.float32)
    call = Call(slot_of, counts, scaling, gate, dropout, dtype, fine)
    tensors = (hidden, top_k_weights, *lora)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        out: Tensor = _ExpertLora.apply(*tensors, gate_up_proj, down_proj, top_k_index, call)
        return out
    first, second = _products(call, lora, gate_up_proj, down_proj)
    return _forward(call, hidden, top_k_weights, top_k_index, Product(call, *first), Product(call, *second))


class _ExpertLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        hidden, weights, *lora, gate_up_proj, down_proj, index, call = inputs
        first, second = _products(call, tuple(lora), gate_up_proj, down_proj)
        gate_up_S = hidden.new_empty(sum(call.counts), gate_up_proj.shape[1], dtype=call.dtype)
        out = _forward(call, hidden, weights, index, Product(call, *first), Product(call, *second), gate_up_S)
        ctx.call = call
        ctx.save_for_backward(hidden, weights, index, gate_up_S, *first, *second)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        call, (hidden, weights, index, gate_up_S, *products) = ctx.call, ctx.saved_tensors
        half = len(products) // 2
        first, second = products[:half], products[half:]
        lora = (first[1], first[2], second[1], second[2])
        d_lora = [
            _gradient(call, tensor) if needed else None
            for tensor, needed in zip(lora, ctx.needs_input_grad[2:6], strict=True)
        ]
        d_hidden, d_weights = _backward(
            call,
            d_out,
            hidden,
            weights,
            index,
            Product(call, *first),
            Product(call, *second),
            gate_up_S,
            d_lora,
        )
        return d_hidden, d_weights, *d_lora, None, None, None, None


def _products(
    call: Call, lora: Lora, gate_up_proj: Tensor, down_proj: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of the two products."""
    rows = sum(count for count, slot in zip(call.counts, call.slots, strict=True) if slot >= 0)
    first_low, second_low = gate_up_proj.new_empty(2, rows, lora[0].shape[1], dtype=call.dtype)
    first = [gate_up_proj, lora[0], lora[1], first_low]
    second = [down_proj, lora[2], lora[3], second_low]
    for tensors, mask in zip((first, second), draw_masks(lora, rows, call.dropout), strict=True):
        tensors += [] if mask is None else [mask]
    return first, second


def _gradient(call: Call, stack: Tensor) -> Tensor:
    """A gradient to be written by the experts that have rows; it is zero for the others."""
    gradient = torch.empty_like(stack)
    for count, slot in zip(call.counts, call.slots, strict=True):
        if slot >= 0 and not count:
            gradient[slot].zero_()
    return gradient


def _blocks(call: Call) -> Iterator[Block]:
    start = lora_start = first = 0
    hit = [expert for expert, count in enumerate(call.counts) if count]
    while first < len(hit):
        last, rows = first + 1, call.counts[hit[first]]
        while last < len(hit) and rows + call.counts[hit[last]] <= BLOCK_ROWS:
            rows += call.counts[hit[last]]
            last += 1
        experts = hit[first:last]
        slots = [call.slots[expert] for expert in experts]
        counts = [call.counts[expert] for expert in experts]
        lora_counts = [count if slot >= 0 else 0 for count, slot in zip(counts, slots, strict=True)]
        stop, lora_stop = start + rows, lora_start + sum(lora_counts)
        yield Block(experts, slots, counts, lora_counts, slice(start, stop), slice(lora_start, lora_stop))
        start, lora_start, first = stop, lora_stop, last


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
    for block in _blocks(call):
        token = tokens[block.rows]
        x = x_T.index_select(0, token)
        gate_up = x.new_empty(len(x), len(first.weight[0])) if gate_up_S is None else gate_up_S[block.rows]
        first.forward(block, x, gate_up)
        act = gated(gate_up.to(call.fine), call.gate) * w_S[block.rows]
        y = torch.empty_like(x)
        second.forward(block, act.to(call.dtype), y)
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
    x_T, w_S = hidden.to(call.dtype), weights.reshape(-1)[order, None].to(call.fine)
    d_out_T = d_out.to(call.dtype)
    d_hidden, d_w_S = hidden.new_zeros(hidden.shape, dtype=call.fine), torch.zeros_like(w_S)
    d_gate_up_a, d_gate_up_b, d_down_a, d_down_b = (() if d is None else d.unbind() for d in d_lora)
    for block in _blocks(call):
        token, w = tokens[block.rows], w_S[block.rows]
        act, act_backward = gate_vjp(gate_up_S[block.rows].to(call.fine), call.gate)
        act_w, d_y = (act * w).to(call.dtype), d_out_T.index_select(0, token)
        d_act = second.backward(block, act_w, d_y, d_down_a, d_down_b).to(call.fine)
        d_w_S[block.rows, 0] = torch.linalg.vecdot(d_act, act)
        d_gate_up = act_backward(d_act * w).to(call.dtype)
        d_x = first.backward(block, x_T.index_select(0, token), d_gate_up, d_gate_up_a, d_gate_up_b)
        d_hidden.index_add_(0, token, d_x.to(call.fine))
    d_weights = torch.empty_like(weights).reshape(-1).index_copy_(0, order, d_w_S[:, 0].to(weights.dtype))
    return d_hidden.to(hidden.dtype), d_weights.view_as(weights)


def _mm_into(out: Tensor, left: Tensor, right: Tensor, scaling: float) -> None:
    if out.dtype == left.dtype:
        out.addmm_(left, right, beta=0, alpha=scaling)
    else:
        out.copy_(torch.mm(left, right)).mul_(scaling)
