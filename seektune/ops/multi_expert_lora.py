"""Routed experts in a batch of many adapters: the base's grouped products, and each choice's low-rank terms.

The choices are sorted by expert, then by slot, so that the base multiplies an expert's rows at once and each
(expert, slot) is a segment of neighbouring rows; only experts that a token chose are read. For inference.

T tokens, K choices per token, C = T·K rows, E experts, S slots, N experts adapted in a slot, R rank, H hidden
width, I intermediate width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seektune.ops.expert_lora import expert_lora_reference
from seektune.ops.expert_lora_grouped import grouped_fits
from seektune.ops.expert_routing import Gate, gated


class ExpertLora(NamedTuple):
    """The resident matrices of one slot, both B scaled."""

    gate_up_a: Tensor  # (N, R, H)
    gate_up_b: Tensor  # (N, 2I, R)
    down_a: Tensor  # (N, R, I)
    down_b: Tensor  # (N, H, R)
    places: tuple[int, ...]  # of each expert in the N, −1 = not adapted


class _Segment(NamedTuple):
    """Rows start to stop: choices of one expert by tokens of one slot, and the place of its matrices."""

    lora: ExpertLora
    place: int
    start: int
    stop: int


def multi_expert_lora(
    hidden: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    slots: Tensor,
    loras: Sequence[ExpertLora | None],
    gate: Gate | None = None,
) -> Tensor:
    """out[t] = Σ_k w[t,k] · (D_e + B'A') gate((G_e + BA) hidden[t]), A and B of slots[t].

    e = top_k_index[t,k], an index of E choosing no expert. hidden (T, H); top_k_index, top_k_weights (T, K);
    gate_up_proj (E, 2I, H), down_proj (E, H, I); slots (T,), −1 = none; `loras` by slot, None = nothing at
    this layer; `gate` (rows, 2I) → (rows, I), None for silu(g)·u. Rows without a slot get what transformers'
    own grouped experts (in float64 its loop) give them, operation for operation.
    """
    experts, numbered = len(gate_up_proj), len(loras) + 1
    key, order = torch.sort((top_k_index * numbered + slots[:, None] + 1).flatten(), stable=True)
    tokens = order // top_k_index.shape[1]
    keys, lengths = (t.tolist() for t in torch.unique_consecutive(key, return_counts=True))
    segments = _segments(keys, lengths, loras, experts)
    ends = torch.searchsorted(key, torch.arange(1, experts + 1, device=key.device) * numbered, out_int32=True)

    x = hidden[tokens]
    gate_up = _grouped(x, gate_up_proj, ends)
    for lora, place, start, stop in segments:
        low = x[start:stop] @ lora.gate_up_a[place].t()
        gate_up[start:stop].addmm_(low, lora.gate_up_b[place].t())
    act = gated(gate_up, gate)
    y = _grouped(act, down_proj, ends)
    for lora, place, start, stop in segments:
        low = act[start:stop] @ lora.down_a[place].t()
        y[start:stop].addmm_(low, lora.down_b[place].t())
    y[sum(n for k, n in zip(keys, lengths, strict=True) if k < experts * numbered) :] = 0
    weighted = y * top_k_weights.flatten()[order, None]
    if hidden.dtype == torch.float64:
        return torch.zeros_like(hidden).index_add_(0, tokens, weighted)
    by_token = torch.empty_like(weighted).index_copy_(0, order, weighted)
    return by_token.view(*top_k_index.shape, -1).sum(1).to(hidden.dtype)


def multi_expert_lora_reference(
    hidden: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    slots: Tensor,
    loras: Sequence[ExpertLora | None],
    gate: Gate | None = None,
) -> Tensor:
    """The naive twin: each token alone, through the reference of one adapter's experts."""
    out = torch.zeros_like(hidden)
    for token, slot in enumerate(slots.tolist()):
        lora = loras[slot] if slot >= 0 else None
        a, b, c, d, places = _nothing(gate_up_proj, down_proj) if lora is None else lora
        by_expert = torch.tensor(places, device=hidden.device)
        x, index, weights = (t[token : token + 1] for t in (hidden, top_k_index, top_k_weights))
        base = (gate_up_proj, down_proj)
        out[token] = expert_lora_reference(x, index, weights, *base, a, b, c, d, 1.0, by_expert, gate)[0]
    return out


def _nothing(gate_up_proj: Tensor, down_proj: Tensor) -> ExpertLora:
    """Matrices of no expert."""
    (experts, width, hidden), inner, new = gate_up_proj.shape, down_proj.shape[-1], gate_up_proj.new_empty
    matrices = new(0, 1, hidden), new(0, width, 1), new(0, 1, inner), new(0, hidden, 1)
    return ExpertLora(*matrices, (-1,) * experts)


def _segments(
    keys: Sequence[int], lengths: Sequence[int], loras: Sequence[ExpertLora | None], experts: int
) -> list[_Segment]:
    """The segments whose slot adapts their expert; a key is expert · (S + 1) + slot + 1."""
    found = []
    for key, (start, stop) in zip(keys, pairwise(accumulate(lengths, initial=0)), strict=True):
        expert, slot = divmod(key, len(loras) + 1)
        lora = loras[slot - 1] if slot else None
        if lora is not None and expert < experts and lora.places[expert] >= 0:
            found.append(_Segment(lora, lora.places[expert], start, stop))
    return found


def _grouped(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x (C, in) sorted by expert, weight (E, out, in), ends (E,) → (C, out); undefined after the last end."""
    if grouped_fits(x, weight, x.dtype):
        return F.grouped_mm(x, weight.mT, offs=ends)
    y = x.new_empty(len(x), weight.shape[1])
    for expert, (start, stop) in enumerate(pairwise([0, *ends.tolist()])):
        if stop > start:
            torch.mm(x[start:stop], weight[expert].t(), out=y[start:stop])
    return y
