"""LoRA on fused routed experts: the public op, its checks and its naive twin.

T tokens, K choices per token, E experts, N experts with LoRA, H hidden width, I intermediate width, R rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seektune.ops.expert_lora_grouped import expert_lora_grouped, grouped_fits
from seektune.ops.expert_lora_loop import expert_lora_loop
from seektune.ops.expert_routing import Gate, Lora, draw_masks, drop, gated
from seektune.ops.precision import check_dtype, check_frozen, compute_dtype


def expert_lora(
    hidden: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    gate_up_a: Tensor,
    gate_up_b: Tensor,
    down_a: Tensor,
    down_b: Tensor,
    scaling: float,
    slots: Tensor | None = None,
    gate: Gate | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Routed experts whose two products each carry a low-rank term, at the cost of the rows they serve.

    out[t] = Σ_k w[t,k] · (D_e + s·B'_e A'_e) gate((G_e + s·B_e A_e) hidden[t]),  e = top_k_index[t,k]

    Shapes: hidden (T, H); top_k_index, top_k_weights (T, K), an index of E choosing no expert;
    gate_up_proj (E, 2I, H), down_proj (E, H, I), both frozen; gate_up_a (N, R, H), gate_up_b (N, 2I, R),
    down_a (N, R, I), down_b (N, H, R); `slots` (E,) names each expert's row of the LoRA tensors, −1 for an
    expert without LoRA, None when N = E. `gate` (rows, 2I) -> (rows, I) is the experts' own gate function,
    None for silu(g)·u. `dropout` thins the input of each low-rank term, as in PEFT.

    Products run in hidden's dtype, or autocast's; sums over experts in at least fp32; gradients reach
    hidden, top_k_weights and the LoRA tensors, each in its own dtype. Raises ValueError when shapes do not
    fit, or when base weights and hidden differ in dtype outside autocast.
    """
    lora = (gate_up_a, gate_up_b, down_a, down_b)
    base = (gate_up_proj, down_proj)
    check_frozen(*base)
    check_dtype(hidden, *base)
    _check_shapes(hidden, top_k_index, gate_up_proj, down_proj, lora, slots)
    dtype = compute_dtype(hidden)
    run = variant(hidden, gate_up_proj, dtype)
    return run(hidden, top_k_index, top_k_weights, *base, lora, scaling, slots, gate, dropout, dtype)


def variant(hidden: Tensor, gate_up_proj: Tensor, dtype: torch.dtype) -> Callable[..., Tensor]:
    """Which form runs for products in `dtype`: all experts at once on a GPU, where grouped products can."""
    grouped = hidden.is_cuda and grouped_fits(hidden, gate_up_proj, dtype)
    return expert_lora_grouped if grouped else expert_lora_loop


def expert_lora_reference(
    hidden: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    gate_up_a: Tensor,
    gate_up_b: Tensor,
    down_a: Tensor,
    down_b: Tensor,
    scaling: float,
    slots: Tensor | None = None,
    gate: Gate | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The naive twin of `expert_lora`: every expert in turn, plain autograd, the same dropout masks."""
    dtype = compute_dtype(hidden)
    slot_of = list(range(len(gate_up_proj))) if slots is None else slots.tolist()
    rows = sum(int((top_k_index == expert).sum()) for expert, slot in enumerate(slot_of) if slot >= 0)
    masks = draw_masks((gate_up_a, gate_up_b, down_a, down_b), rows, dropout)
    out, start = torch.zeros_like(hidden), 0
    for expert, slot in enumerate(slot_of):
        token, choice = torch.where(top_k_index == expert)
        weight = top_k_weights[token, choice, None]
        kept = slice(start, start + len(token) * (slot >= 0))
        x, keeps = hidden[token].to(dtype), [None if keep is None else keep[kept] for keep in masks]
        gate_up = F.linear(x, gate_up_proj[expert].to(dtype))
        if slot >= 0:
            gate_up = gate_up + scaling * _low_rank(
                drop(x, keeps[0], dropout), gate_up_a[slot], gate_up_b[slot]
            )
        act = gated(gate_up, gate)
        y = F.linear(act, down_proj[expert].to(dtype))
        if slot >= 0:
            dropped = drop(act, keeps[1], dropout)
            y = y + scaling * _low_rank(dropped, down_a[slot], down_b[slot])
        out = out.index_add(0, token, (y * weight).to(out.dtype))
        start = kept.stop
    return out


def _low_rank(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype))


def _check_shapes(
    hidden: Tensor,
    index: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    lora: Lora,
    slots: Tensor | None,
) -> None:
    experts, width, hidden_width = gate_up_proj.shape
    n, rank = (experts if slots is None else lora[0].shape[0]), lora[0].shape[1]
    wanted = {
        "hidden": (hidden, (index.shape[0], hidden_width)),
        "down_proj": (down_proj, (experts, hidden_width, width // 2)),
        "gate_up_a": (lora[0], (n, rank, hidden_width)),
        "gate_up_b": (lora[1], (n, width, rank)),
        "down_a": (lora[2], (n, rank, width // 2)),
        "down_b": (lora[3], (n, hidden_width, rank)),
    }
    if slots is not None:
        wanted["slots"] = (slots, (experts,))
    wrong = [
        f"{name} {tuple(t.shape)} should be {shape}"
        for name, (t, shape) in wanted.items()
        if t.shape != shape
    ]
    if wrong:
        raise ValueError(f"expert_lora: {'; '.join(wrong)} (gate_up_proj is {tuple(gate_up_proj.shape)})")
