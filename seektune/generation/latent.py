"""Multi-head latent attention over cached latents, with the up-projection absorbed (DeepSeek-V2, 2024).

A head's key is W_k c and its value W_v c, for the latent c of each token. As q·(W_k c) = (W_kᵀ q)·c and
Σ p W_v c = W_v Σ p c, a new token takes the projection on itself and attends to the cached latents, instead
of expanding every cached one again: one "key head" of width R + P whose first R columns are the values too.
A low-rank delta of the projection, W + B A, is absorbed the same way, factor by factor.

Shapes: T new tokens, L cached ones, h heads, N + P query width (P of it rotated), V value width, R latent
width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seektune.adapters.wrap import AdaptedLinear
from seektune.generation.cache import Pass
from seektune.ops.multi_lora import Term
from seektune.ops.paged_attention import Chunk


class LatentAttention(nn.Module):
    """DeepSeek-V2's and V3's attention over paged latents."""

    q_proj: nn.Module | None
    q_a_proj: nn.Module
    q_a_layernorm: nn.Module
    q_b_proj: nn.Module
    kv_a_proj_with_mqa: nn.Module
    kv_a_layernorm: nn.Module
    kv_b_proj: nn.Linear | AdaptedLinear
    o_proj: nn.Module
    config: Any
    layer_idx: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    num_heads: int
    scaling: float

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | Tensor,
        *,
        paged: Pass,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """(1, T, H) → (1, T, H), no attention weights."""
        x = hidden_states[0]
        q = self.q_proj(x) if self.q_proj is not None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q_nope, q_rope = q.unflatten(-1, (self.num_heads, -1)).split(
            [self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1
        )
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.kv_lora_rank, self.qk_rope_head_dim], dim=-1)
        latent = self.kv_a_layernorm(latent)
        q_rope = self._rotated(q_rope, position_embeddings)
        k_rope = self._rotated(k_rope.unsqueeze(1), position_embeddings)
        layer = paged.layer(self)
        paged.write(layer, torch.cat([latent.unsqueeze(1), k_rope], dim=-1))

        terms = self.kv_b_proj.terms() if isinstance(self.kv_b_proj, AdaptedLinear) else []
        out = q.new_empty(len(x), self.num_heads, self.v_head_dim)
        if paged.fresh:
            kv = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1))
            k, v = self._keys_and_values(kv, k_rope)
            paged.attend_fresh(torch.cat([q_nope, q_rope], dim=-1), k, v, self.scaling, out)
        narrow = []
        for chunk in paged.later:
            if not self._expands(chunk):
                narrow.append(chunk)
                continue
            q_chunk = torch.cat([q_nope[chunk.rows], q_rope[chunk.rows]], dim=-1)
            out[chunk.rows] = self._attend_expanded(q_chunk, chunk, paged.cache.keys[layer], terms)
        past = paged.past(narrow)
        if past is not None:
            summed = q.new_zeros(len(x), self.num_heads, self.kv_lora_rank)
            query = torch.cat([self._absorb_keys(q_nope, terms), q_rope], dim=-1)
            paged.attend_past(layer, query, self.scaling, summed, narrow)
            out[past] = self._absorb_values(summed, terms)[past]
        return self.o_proj(out.flatten(1)).unsqueeze(0), None

    def _expands(self, chunk: Chunk) -> bool:
        """Whether expanding a chunk's keys and values costs less than the wider products of absorbing."""
        wider = 2 * self.kv_lora_rank - self.qk_nope_head_dim - self.v_head_dim
        count: int = chunk.rows.stop - chunk.rows.start
        return count * wider > self.kv_lora_rank * (self.qk_nope_head_dim + self.v_head_dim)

    def _attend_expanded(self, q: Tensor, chunk: Chunk, pool: Tensor, terms: Sequence[Term]) -> Tensor:
        """q (C, h, N + P) against all tokens of its sequence, expanded under its adapter → (C, h, V)."""
        latent, k_rope = (
            pool[chunk.pages].flatten(0, 2).split([self.kv_lora_rank, self.qk_rope_head_dim], dim=-1)
        )
        kv = F.linear(latent, self.kv_b_proj.weight)
        for a, b in _of_row(terms, chunk.rows.start):
            kv.addmm_(latent @ a.t(), b)
        k, v = self._keys_and_values(kv.unflatten(-1, (self.num_heads, -1)), k_rope.unsqueeze(1))
        v = F.pad(v, (0, k.shape[-1] - v.shape[-1]))  # the fused kernels want equal widths
        q, k, v = (head.transpose(0, 1).unsqueeze(0) for head in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=chunk.mask, scale=self.scaling)
        return attended[0, ..., : self.v_head_dim].transpose(0, 1)

    def _keys_and_values(self, kv: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
        """kv (L, h, N + V), k_rope (L, 1, P) → (L, h, N + P), (L, h, V)."""
        k_nope, v = kv.split([self.qk_nope_head_dim, self.v_head_dim], dim=-1)
        return torch.cat([k_nope, k_rope.expand(-1, self.num_heads, -1)], dim=-1), v

    def _absorb_keys(self, q: Tensor, terms: Sequence[Term]) -> Tensor:
        """W_kᵀ q of each head: (T, h, N) → (T, h, R)."""
        w_k = self._by_head(self.kv_b_proj.weight)[:, : self.qk_nope_head_dim]
        absorbed = torch.bmm(q.transpose(0, 1), w_k).transpose(0, 1)
        for term in terms:
            a, b = term.matrices()
            part = q[term.rows].unflatten(0, (len(a), -1))  # (n, c, h, N)
            low = torch.einsum("nchd,nrhd->nchr", part, self._heads_of(b)[..., : self.qk_nope_head_dim])
            absorbed = _added(absorbed, term.rows, torch.einsum("nchr,nrl->nchl", low, a))
        return absorbed

    def _absorb_values(self, summed: Tensor, terms: Sequence[Term]) -> Tensor:
        """W_v Σ p c of each head: (T, h, R) → (T, h, V)."""
        w_v = self._by_head(self.kv_b_proj.weight)[:, self.qk_nope_head_dim :]
        out = torch.bmm(summed.transpose(0, 1), w_v.mT).transpose(0, 1)
        for term in terms:
            a, b = term.matrices()
            low = torch.einsum("nchl,nrl->nchr", summed[term.rows].unflatten(0, (len(a), -1)), a)
            values = self._heads_of(b)[..., self.qk_nope_head_dim :]
            out = _added(out, term.rows, torch.einsum("nchr,nrhd->nchd", low, values))
        return out

    def _by_head(self, weight: Tensor) -> Tensor:
        """(h·(N + V), R) → (h, N + V, R)."""
        return weight.view(self.num_heads, -1, weight.shape[-1])

    def _heads_of(self, b: Tensor) -> Tensor:
        """(n, r, h·(N + V)) → (n, r, h, N + V)."""
        return b.reshape(*b.shape[:2], self.num_heads, -1)

    def _rotated(self, x: Tensor, rotation: tuple[Tensor, Tensor] | Tensor) -> Tensor:
        """x (T, ·, P) rotated as each generation does it: V2 in float32, V3 by halves or neighbours."""
        if isinstance(rotation, Tensor):
            pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
            return torch.view_as_real(pairs * rotation[0].unsqueeze(1)).flatten(-2).type_as(x)
        cos, sin = (angles[0].unsqueeze(1).chunk(2, dim=-1)[0] for angles in rotation)
        if self.config.rope_interleave:
            first, second = x[..., 0::2], x[..., 1::2]
        else:
            first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _added(y: Tensor, rows: slice | Tensor, part: Tensor) -> Tensor:
    """y (T, h, ·) with part (n, c, h, ·) added on its rows."""
    if isinstance(rows, slice):
        y[rows] += part.flatten(0, 1)
        return y
    return y.index_add(0, rows, part.flatten(0, 1))


def _of_row(terms: Sequence[Term], row: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A (r, R) and B (r, h·(N + V)) of the terms that one row of the batch has."""
    for term in terms:
        if isinstance(term.rows, slice):
            start, stop, _ = term.rows.indices(2**62)
            if not start <= row < stop:
                continue
            place, count = row - start, stop - start
        else:
            found = (term.rows == row).nonzero()
            if not len(found):
                continue
            place, count = int(found[0]), len(term.rows)
        a, b = term.matrices()
        segment = place * len(a) // count
        yield a[segment], b[segment]
