"""Faster forms of a model's norms, gated MLPs and attention, for one model instance.

Only the class of a module object is exchanged, never a class's content: parameters keep their names, and
hooks, flags and references held elsewhere their object. The fused forms compute their projections without
calling the children, so forward hooks on those linears do not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seektune.adapters.wrap import AdaptedLinear
from seektune.errors import ModelError
from seektune.models.backends import NAME, attention
from seektune.ops.gated_mlp import gated_mlp
from seektune.ops.latent_heads import latent_heads
from seektune.ops.lora_linear import Projection, lora_linears
from seektune.ops.precision import at_least_float32
from seektune.ops.rms_norm import rms_norm
from seektune.ops.rotary import rotary

Linear = nn.Linear | AdaptedLinear


def fuse(model: nn.Module) -> None:
    """Give the fused form to every module of `model` that has one and computes exactly the same.

    The model's base must be frozen. Modules that are fused already stay so.
    """
    module: Any
    for module in model.modules():
        fused = _FUSED.get(type(module).__name__)
        if fused is not None and fused.fits(module):
            module.unfused = type(module)
            module.__class__ = fused


def unfuse(model: nn.Module) -> None:
    """Give every fused module its own class back."""
    module: Any
    for module in model.modules():
        if isinstance(module, FusedNorm | FusedMLP | FusedAttention | FusedLatentAttention):
            module.__class__ = vars(module).pop("unfused")


class FusedNorm(nn.Module):
    """RMSNorm by `ops.rms_norm`."""

    unfused: type[nn.Module]
    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, H) → (…, H)."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)

    @staticmethod
    def fits(module: Any) -> bool:
        """All but float64, where transformers' norm rounds to float32 and ours does not."""
        return bool(module.weight.dtype != torch.float64)


class FusedMLP(nn.Module):
    """A SwiGLU MLP by `ops.gated_mlp`."""

    unfused: type[nn.Module]
    gate_proj: Linear
    up_proj: Linear
    down_proj: Linear

    def forward(self, x: Tensor) -> Tensor:
        """(…, H) → (…, H)."""
        linears = (self.gate_proj, self.up_proj, self.down_proj)
        if any(map(_is_mixed, linears)):
            y: Tensor = self.down_proj(F.silu(self.gate_proj(x)).mul_(self.up_proj(x)))
            return y
        return gated_mlp(x, *map(_projection, linears))

    @staticmethod
    def fits(module: Any) -> bool:
        """Plain linears around silu."""
        probe = torch.linspace(-9, 9, 19)
        plain = all(map(_is_plain, (module.gate_proj, module.up_proj, module.down_proj)))
        return plain and torch.equal(module.act_fn(probe), F.silu(probe))


class FusedAttention(nn.Module):
    """Llama's and Qwen2's attention: q, k and v by one function, rotated without turned copies."""

    unfused: type[nn.Module]
    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    o_proj: Linear
    config: Any
    layer_idx: int
    head_dim: int
    scaling: float
    attention_dropout: float

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """(B, T, H) → (B, T, H), no attention weights."""
        _refuse_other_attention(self.config)
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        projected = _project(hidden_states, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (heads.view(shape) for heads in projected)
        q, k, v = (
            heads.transpose(1, 2)
            for heads in (rotary(q, *position_embeddings), rotary(k, *position_embeddings), v)
        )
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        dropout = self.attention_dropout if self.training else 0.0
        window = getattr(self, "sliding_window", None)
        out, _ = attention(
            self,
            q,
            k,
            v,
            attention_mask,
            scaling=self.scaling,
            dropout=dropout,
            sliding_window=window,
            **kwargs,
        )
        return self.o_proj(out.flatten(2)), None

    @staticmethod
    def fits(module: Any) -> bool:
        """Plain linears, and our attention between them."""
        plain = all(map(_is_plain, (module.q_proj, module.k_proj, module.v_proj)))
        return plain and module.config._attn_implementation == NAME


class FusedLatentAttention(nn.Module):
    """DeepSeek-V2's and V3's attention without a cache: rotated heads written once by `ops.latent_heads`."""

    unfused: Any
    q_proj: Linear | None
    q_a_proj: Linear
    q_a_layernorm: nn.Module
    q_b_proj: Linear
    kv_a_proj_with_mqa: Linear
    kv_a_layernorm: nn.Module
    kv_b_proj: Linear
    o_proj: Linear
    config: Any
    kv_lora_rank: int
    qk_rope_head_dim: int
    num_heads: int
    scaling: float
    attention_dropout: float

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """(B, T, H) → (B, T, H), no attention weights; with a cache by the unfused form, which fills it."""
        _refuse_other_attention(self.config)
        if past_key_values is not None:
            stock: tuple[Tensor, None] = self.unfused.forward(
                self,
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
            return stock
        q, compressed = self._project(hidden_states)
        latent, k_rope = compressed.split([self.kv_lora_rank, self.qk_rope_head_dim], dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent))
        q, kv = (heads.unflatten(-1, (self.num_heads, -1)) for heads in (q, kv))
        heads = latent_heads(q, kv, k_rope, _rotation(position_embeddings))
        q, k, v = (head.transpose(1, 2) for head in heads)
        dropout = self.attention_dropout if self.training else 0.0
        out, _ = attention(self, q, k, v, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs)
        return self.o_proj(out.flatten(2)), None

    def expand_kv(self, latent: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
        """The unfused form's own, which its forward calls."""
        keys_and_values: tuple[Tensor, Tensor] = self.unfused.expand_kv(self, latent, k_rope)
        return keys_and_values

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries and compressed keys and values; dropout masks are drawn in the unfused form's order."""
        if self.q_proj is not None:
            return _project(x, self.q_proj, self.kv_a_proj_with_mqa)
        return self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))), self.kv_a_proj_with_mqa(x)

    @staticmethod
    def fits(module: Any) -> bool:
        """Plain linears, our attention, neighbours rotated; V2 rotates in float32 even in a float64 model."""
        linears = [module.kv_a_proj_with_mqa] + ([] if module.q_proj is None else [module.q_proj])
        v3 = hasattr(module.config, "rope_interleave")
        rotated = module.config.rope_interleave if v3 else module.o_proj.weight.dtype != torch.float64
        return all(map(_is_plain, linears)) and rotated and module.config._attn_implementation == NAME


_FUSED: Mapping[str, Any] = MappingProxyType(
    {
        "LlamaRMSNorm": FusedNorm,
        "Qwen2RMSNorm": FusedNorm,
        "DeepseekV2RMSNorm": FusedNorm,
        "DeepseekV3RMSNorm": FusedNorm,
        "LlamaMLP": FusedMLP,
        "Qwen2MLP": FusedMLP,
        "DeepseekV2MLP": FusedMLP,
        "DeepseekV3MLP": FusedMLP,
        "LlamaAttention": FusedAttention,
        "Qwen2Attention": FusedAttention,
        "DeepseekV2Attention": FusedLatentAttention,
        "DeepseekV3Attention": FusedLatentAttention,
    }
)
"""transformers' classes whose forward was compared with the fused form, line by line and in the tests."""


def _refuse_other_attention(config: Any) -> None:
    if config._attn_implementation != NAME:
        raise ModelError(
            f"attention was switched to {config._attn_implementation!r} under an attached adapter: "
            "detach it first, or keep 'seektune'"
        )


def _rotation(position_embeddings: tuple[Tensor, Tensor] | Tensor) -> Tensor:
    """Complex factors (B or 1, T, P/2): V2's own, or from V3's cos and sin, which hold each angle twice."""
    if isinstance(position_embeddings, Tensor):
        return position_embeddings
    cos, sin = (at_least_float32(angles.chunk(2, dim=-1)[0]) for angles in position_embeddings)
    return torch.complex(cos, sin)


def _project(x: Tensor, *linears: Linear) -> tuple[Tensor, ...]:
    """x through each linear, by one function; one by one where resident adapters are mixed."""
    if any(map(_is_mixed, linears)):
        return tuple(linear(x) for linear in linears)
    return lora_linears(x, [_projection(linear) for linear in linears])


def _is_mixed(linear: Linear) -> bool:
    return isinstance(linear, AdaptedLinear) and linear.mixed


def _projection(linear: Linear) -> Projection:
    """A linear's tensors with those of its active delta, if it has one."""
    delta = linear.take_delta() if isinstance(linear, AdaptedLinear) else None
    if delta is None:
        return Projection(linear.weight, linear.bias)
    return Projection(
        linear.weight, linear.bias, delta.lora_A, delta.lora_B, delta.scaling, delta.applied_dropout
    )


def _is_plain(linear: nn.Module) -> bool:
    return type(linear.base_layer if isinstance(linear, AdaptedLinear) else linear) is nn.Linear
