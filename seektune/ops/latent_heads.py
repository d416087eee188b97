"""The rotated heads of multi-head latent attention (DeepSeek-V2, 2024) from its projections.

Of each head a part of width N has no position and a part of width P is rotated; the rotated key is one for
all heads. Plain autograd turns, joins and splits several copies of q, k and v. Here q and k are written once,
v is read where its projection left it, and the backward writes each projection's gradient once.

Shapes: B rows, T tokens, h heads, N + P query and key width, V value width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def latent_heads(q: Tensor, kv: Tensor, k_rope: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(q, k, v) with the last P of every q and k head rotated, each pair of neighbours by its complex factor.

    q (B, T, h, N + P), kv (B, T, h, N + V) the keys' first part and the values, k_rope (B, T, P), rotation
    (B or 1, T, P/2) complex → q, k (B, T, h, N + P), v (B, T, h, V); v is a view of kv.
    """
    heads: tuple[Tensor, Tensor, Tensor] = _LatentHeads.apply(q, kv, k_rope, rotation)
    return heads


def latent_heads_reference(
    q: Tensor, kv: Tensor, k_rope: Tensor, rotation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula by plain autograd, rotated as by transformers' apply_rotary_emb of DeepSeek-V2."""
    nope, rope = q.shape[-1] - k_rope.shape[-1], k_rope.shape[-1]
    q_nope, q_rope = q.split([nope, rope], dim=-1)
    k_nope, v = kv.split([nope, kv.shape[-1] - nope], dim=-1)
    turned_q, turned_k = (_turned(x, rotation.unsqueeze(2)) for x in (q_rope, k_rope.unsqueeze(2)))
    k = torch.cat([k_nope, turned_k.expand(*k_nope.shape[:-1], -1)], dim=-1)
    return torch.cat([q_nope, turned_q], dim=-1), k, v


class _LatentHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, k_rope: Tensor, rotation: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(rotation)
        ctx.nope = nope = q.shape[-1] - k_rope.shape[-1]
        factors = rotation.unsqueeze(2)
        out_q = q.clone(memory_format=torch.contiguous_format)
        _turn_(out_q[..., nope:], factors)
        out_k = torch.empty_like(out_q)
        out_k[..., :nope] = kv[..., :nope]
        out_k[..., nope:] = _turned(k_rope.unsqueeze(2), factors)
        return out_q, out_k, kv[..., nope:].detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_q: Tensor, of_k: Tensor, of_v: Tensor) -> tuple[Tensor | None, ...]:
        (rotation,), nope = ctx.saved_tensors, ctx.nope
        back = rotation.conj().resolve_conj()
        d_q = of_q.clone(memory_format=torch.contiguous_format)
        _turn_(d_q[..., nope:], back.unsqueeze(2))
        d_kv = of_k.new_empty(*of_k.shape[:-1], nope + of_v.shape[-1])  # two copies are faster than one cat
        d_kv[..., :nope], d_kv[..., nope:] = of_k[..., :nope], of_v
        return d_q, d_kv, _turned(of_k[..., nope:].sum(dim=2), back), None


def _turned(x: Tensor, factors: Tensor) -> Tensor:
    """x (…, P) with each pair of neighbours times its complex factor (…, P/2), rounded to x's dtype."""
    fine = torch.promote_types(x.dtype, factors.real.dtype)
    pairs = torch.view_as_complex(x.to(fine).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * factors).flatten(-2).to(x.dtype)


def _turn_(x: Tensor, factors: Tensor) -> None:
    """`_turned` in place."""
    if x.dtype == factors.real.dtype:
        torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(factors)
    else:
        x.copy_(_turned(x, factors))
