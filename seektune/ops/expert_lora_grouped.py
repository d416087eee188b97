"""Expert LoRA with torch's grouped matrix products: for CUDA, one kernel for all experts, no synchronisation.

T tokens, K choices per token, E experts, N experts with LoRA, S = T·K rows in the order of the experts (those
that choose no expert last, undefined after a grouped product and zeroed), H hidden width, I intermediate
width, R rank, padded to the kernels' alignment.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seektune.ops.expert_routing import Gate, Lora, draw_masks, drop, gate_vjp, gated, sort_by_expert

ALIGNMENT = 16
"""Bytes: grouped products want every row of every operand to start at a multiple of it."""


class Call(NamedTuple):
    """The constants of one call."""

    scaling: float
    slots: Tensor | None
    gate: Gate | None
    dropout: float
    dtype: torch.dtype  # of the products
    fine: torch.dtype  # of everything between and after them: at least fp32


class Rows(NamedTuple):
    """The choices in the order of their experts."""

    order_S: Tensor  # places in the flattened (T·K) choices
    tokens_S: Tensor
    ends_E: Tensor  # int32: where each expert's rows end
    nobody_S: Tensor  # (S, 1): rows that choose no expert


class Product(NamedTuple):
    """One of the two products, of all experts: y = x Wᵀ + drop(x) Aᵀ (scaling · B)ᵀ."""

    weight: Tensor  # (E, out, in)
    a: Tensor  # (E, R, in), zero without LoRA
    b: Tensor  # (E, out, R), scaled, zero without LoRA

    def forward(self, rows: Rows, x: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """y (S, out) and drop(x) Aᵀ (S, R)."""
        low = F.grouped_mm(dropped, self.a.mT, offs=rows.ends_E)
        y = F.grouped_mm(x, self.weight.mT, offs=rows.ends_E)
        y += F.grouped_mm(low, self.b.mT, offs=rows.ends_E)
        return y.masked_fill_(rows.nobody_S, 0), low

    def backward(
        self, call: Call, rows: Rows, d_y: Tensor, dropped: Tensor, low: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """d_x (S, in), d_a (E, R, in) and d_b (E, out, R)."""
        d_low = F.grouped_mm(d_y, self.b, offs=rows.ends_E)
        d_x = F.grouped_mm(d_y, self.weight, offs=rows.ends_E)
        d_x += drop(F.grouped_mm(d_low, self.a, offs=rows.ends_E), keep, call.dropout)
        d_a = F.grouped_mm(d_low.t(), dropped, offs=rows.ends_E)
        d_b = F.grouped_mm(d_y.t(), low, offs=rows.ends_E)
        empty = torch.diff(rows.ends_E, prepend=rows.ends_E.new_zeros(1))[:, None, None] == 0
        return d_x.masked_fill_(rows.nobody_S, 0), d_a.masked_fill_(empty, 0), d_b.masked_fill_(empty, 0)


def grouped_fits(hidden: Tensor, gate_up_proj: Tensor, dtype: torch.dtype) -> bool:
    """Whether grouped products can run this call: the dtype has kernels and the widths are aligned."""
    widths = (hidden.shape[-1], gate_up_proj.shape[1] // 2)
    aligned = all(width * dtype.itemsize % ALIGNMENT == 0 for width in widths)
    return aligned and dtype in (torch.float32, torch.bfloat16, torch.float16)


def expert_lora_grouped(
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
    """`expert_lora` with its arguments checked, the dtype of the products chosen and `grouped_fits` true."""
    call = Call(scaling, slots, gate, dropout, dtype, torch.promote_types(dtype, torch.float32))
    out: Tensor = _ExpertLora.apply(hidden, top_k_weights, *lora, gate_up_proj, down_proj, top_k_index, call)
    return out


class _ExpertLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        hidden, weights, *lora, gate_up_proj, down_proj, index, call = inputs
        rows = _rows(index, gate_up_proj.shape[0])
        keeps = draw_masks(tuple(lora), index.numel(), call.dropout)
        first, second = _products(call, gate_up_proj, down_proj, *lora)
        x = hidden.to(call.dtype).index_select(0, rows.tokens_S)
        gate_up, first_low = first.forward(rows, x, drop(x, keeps[0], call.dropout))
        act = gated(gate_up.to(call.fine), call.gate) * _row_weights(call, weights, rows)
        act = act.to(call.dtype)
        y, second_low = second.forward(rows, act, drop(act, keeps[1], call.dropout))
        ctx.call = call
        ctx.save_for_backward(*inputs[:-1], *rows, gate_up, first_low, second_low, *keeps)
        return _add_by_token(call, rows, y, weights).to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        call, saved = ctx.call, ctx.saved_tensors
        hidden, weights, *lora, gate_up_proj, down_proj, _ = saved[:9]
        rows, (gate_up, first_low, second_low, keep_SH, keep_SI) = Rows(*saved[9:13]), saved[13:]
        first, second = _products(call, gate_up_proj, down_proj, *lora)
        w = _row_weights(call, weights, rows)
        d_y = d_out.to(call.dtype).index_select(0, rows.tokens_S)
        act, act_backward = gate_vjp(gate_up.to(call.fine), call.gate)
        dropped = drop((act * w).to(call.dtype), keep_SI, call.dropout)
        d_act, d_down_a, d_down_b = second.backward(call, rows, d_y, dropped, second_low, keep_SI)
        d_act = d_act.to(call.fine)
        d_w = (d_act * act).sum(-1).to(weights.dtype)
        d_gate_up = act_backward(d_act * w).to(call.dtype)
        x = hidden.to(call.dtype).index_select(0, rows.tokens_S)
        d_x, d_gate_up_a, d_gate_up_b = first.backward(
            call, rows, d_gate_up, drop(x, keep_SH, call.dropout), first_low, keep_SH
        )
        by_expert = (d_gate_up_a, d_gate_up_b, d_down_a, d_down_b)
        d_lora = (_from_experts(call, by_expert[i], lora[i], i % 2) for i in range(4))
        d_hidden = _add_by_token(call, rows, d_x, weights).to(hidden.dtype)
        d_weights = torch.empty_like(weights).reshape(-1).index_copy_(0, rows.order_S, d_w)
        return d_hidden, d_weights.view_as(weights), *d_lora, None, None, None, None


def _rows(index: Tensor, experts: int) -> Rows:
    order, tokens = sort_by_expert(index)
    chosen = index.reshape(-1)[order]
    every = torch.arange(experts, device=index.device, dtype=index.dtype)
    ends = torch.searchsorted(chosen, every, right=True, out_int32=True)
    return Rows(order, tokens, ends, (chosen >= experts)[:, None])


def _row_weights(call: Call, weights: Tensor, rows: Rows) -> Tensor:
    return weights.reshape(-1)[rows.order_S, None].to(call.fine)


def _products(call: Call, gate_up_proj: Tensor, down_proj: Tensor, *lora: Tensor) -> tuple[Product, Product]:
    gate_up_a, gate_up_b, down_a, down_b = (_to_experts(call, tensor, i % 2) for i, tensor in enumerate(lora))
    return (
        Product(gate_up_proj.to(call.dtype), gate_up_a, gate_up_b),
        Product(down_proj.to(call.dtype), down_a, down_b),
    )


def _to_experts(call: Call, stack: Tensor, is_b: int) -> Tensor:
    """A or B of every expert, (N, …) -> (E, …), in the products' dtype with the rank padded; B scaled."""
    if is_b:
        stack = stack * call.scaling
    rank = stack.shape[2 if is_b else 1]
    padding = -rank % (ALIGNMENT // call.dtype.itemsize)
    stack = F.pad(stack.to(call.dtype), (0, padding) if is_b else (0, 0, 0, padding))
    if call.slots is None:
        return stack
    without = (call.slots < 0)[:, None, None]
    return stack.index_select(0, call.slots.clamp(min=0)).masked_fill_(without, 0)


def _from_experts(call: Call, gradient: Tensor, stack: Tensor, is_b: int) -> Tensor:
    """The gradient of A or B itself, (E, …) -> (N, …): the transpose of `_to_experts`."""
    gradient = gradient[..., : stack.shape[2]] if is_b else gradient[:, : stack.shape[1]]
    gradient = gradient.to(stack.dtype)
    if is_b:
        gradient = gradient * call.scaling
    if call.slots is None:
        return gradient
    # Experts without LoRA add zeros: both factors of their gradients are zero.
    return torch.zeros_like(stack).index_add_(0, call.slots.clamp(min=0), gradient)


def _add_by_token(call: Call, rows: Rows, y: Tensor, weights: Tensor) -> Tensor:
    """Sum the rows of each token, always in the same order, (S, H) -> (T, H)."""
    place = torch.empty_like(rows.order_S)
    place[rows.order_S] = torch.arange(len(place), device=place.device)
    return y.index_select(0, place).view(*weights.shape, y.shape[1]).sum(1, dtype=call.fine)
