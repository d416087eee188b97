"""Llama's and Qwen2's attention over paged keys and values, with tokens first throughout: nothing is turned.

Shapes: T new tokens, h query heads, k key/value heads, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seektune.generation.cache import Pass
from seektune.generation.joint import JointLinear


class PagedAttention(nn.Module):
    """The form of such an attention module in a step."""

    q_proj: Any
    k_proj: Any
    v_proj: Any
    o_proj: nn.Module
    joint: JointLinear | None
    head_dim: int
    scaling: float

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *, paged: Pass, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """(1, T, H) → (1, T, H), no attention weights."""
        x, linears = hidden_states[0], (self.q_proj, self.k_proj, self.v_proj)
        if self.joint is not None:
            projected = self.joint(x, linears)
        else:
            projected = torch.cat([linear(x) for linear in linears], dim=-1)
        heads = projected.unflatten(-1, (-1, self.head_dim))
        own = self.q_proj.out_features // self.head_dim
        shared = (heads.shape[1] - own) // 2
        turned = _rotated(heads[:, : own + shared], *position_embeddings)
        q, k, v = turned[:, :own], turned[:, own:], heads[:, own + shared :]
        out = paged.attend(paged.layer(self), q, k, v, self.scaling)
        return self.o_proj(out.flatten(1)).unsqueeze(0), None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (T, ·, D) rotated by halves, cos and sin (1, T, D)."""
    first, second = x.chunk(2, dim=-1)
    sin_first, sin_second = sin[0].unsqueeze(1).chunk(2, dim=-1)
    y = x * cos[0].unsqueeze(1)
    y_first, y_second = y.chunk(2, dim=-1)
    y_first.addcmul_(second, sin_first, value=-1)
    y_second.addcmul_(first, sin_second)
    return y
