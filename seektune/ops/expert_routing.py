"""What the ways to run expert LoRA share: rows in the order of the experts, dropout masks, the gate.

T tokens, K choices per token, L rows that pass a low-rank product, I intermediate width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Gate = Callable[[Tensor], Tensor]
"""(rows, 2I) -> (rows, I): what an expert does between its two products."""

Lora = tuple[Tensor, Tensor, Tensor, Tensor]
"""gate_up_a (N, R, H), gate_up_b (N, 2I, R), down_a (N, R, I), down_b (N, H, R)."""


def sort_by_expert(top_k_index: Tensor) -> tuple[Tensor, Tensor]:
    """The choices (T, K) in the order of their experts: places in the flattened (T·K), and tokens."""
    order = torch.argsort(top_k_index.reshape(-1), stable=True)
    return order, torch.div(order, top_k_index.shape[-1], rounding_mode="floor")


def draw_masks(lora: Lora, rows: int, dropout: float) -> tuple[Tensor | None, Tensor | None]:
    """Masks (L, H) and (L, I) of the two LoRA inputs, True = kept, one byte each; None without dropout."""
    if dropout == 0:
        return None, None
    gate_up_a, _, down_a, _ = lora
    hidden, act = (
        torch.empty(rows, a.shape[-1], dtype=torch.bool, device=a.device).bernoulli_(1 - dropout)
        for a in (gate_up_a, down_a)
    )
    return hidden, act


def drop(x: Tensor, keep: Tensor | None, dropout: float) -> Tensor:
    """x·keep / (1 − dropout), or x where there is no mask; diagonal, so also its own gradient."""
    return x if keep is None else x * keep.to(x.dtype).mul_(1 / (1 - dropout))


def gated(gate_up: Tensor, gate: Gate | None) -> Tensor:
    """gate(gate_up), or silu(g)·u of its two halves when `gate` is None."""
    if gate is not None:
        return gate(gate_up)
    g, u = gate_up.chunk(2, -1)
    return F.silu(g).mul_(u)


def gate_vjp(gate_up: Tensor, gate: Gate | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The value of `gated`, and the function that turns its gradient into that of `gate_up`."""
    if gate is not None:
        with torch.enable_grad():
            leaf = gate_up.detach().requires_grad_()
            act = gate(leaf)
        return act.detach(), lambda d_act: torch.autograd.grad(act, leaf, d_act)[0]
    g, u = gate_up.chunk(2, -1)
    silu = F.silu(g)

    def backward(d_act: Tensor) -> Tensor:
        d_gate_up = torch.empty_like(gate_up)
        d_g, d_u = d_gate_up.chunk(2, -1)
        torch.mul(d_act, silu, out=d_u)
        torch.ops.aten.silu_backward.grad_input(d_act * u, g, grad_input=d_g)
        return d_gate_up

    return silu * u, backward
