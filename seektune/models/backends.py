"""Our attention and experts in transformers' official registries, selected on one model instance.

Both names are "seektune". A model that carries no adapter computes what stock transformers computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from seektune.errors import ModelError
from seektune.models.families import Family
from seektune.ops.packed_attention import packed_attention

NAME = "seektune"


def install(model: PreTrainedModel, family: Family) -> None:
    """Register our implementations and select them on this model.

    A family that does not pack keeps its native attention; a vision tower keeps its own too.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, attention_mask)
    ExpertsInterface.register(NAME, experts)
    if family.packs:
        text = "text_config"
        model.set_attn_implementation({text: NAME} if text in model.config.sub_configs else NAME)
    if family.experts is not None:
        model.set_experts_implementation(NAME)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """softmax(q kᵀ · scaling) v: ragged where boundaries are given, else causal SDPA honouring the mask.

    query (B, h, T, D), key and value (B, k, L, ·) → (B, T, h, V). With `cu_seq_lens_q` B is 1 and L is T.
    """
    if cu_seq_lens_q is None:
        if attention_mask is None and position_ids is not None:
            _refuse_hidden_boundaries(position_ids)
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    if key.shape[2] != query.shape[2]:
        raise ModelError("packed rows cannot use a key/value cache: pass use_cache=False with cu_seq_lens_q")
    if sliding_window is not None and sliding_window < query.shape[2]:
        raise ModelError("packed rows ignore the sliding window of this layer: run one sequence per forward")
    out = packed_attention(query, key, value, cu_seq_lens_q, scaling, dropout)
    return out.transpose(1, 2), None


def attention_mask(
    *, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **kwargs: Any
) -> Tensor | None:
    """SDPA's mask for padded batches and cached decoding; None for whole rows, ragged or plain causal."""
    if attention_mask is None and q_length == kv_length and kwargs.get("local_size") is None:
        return None
    mask: Tensor | None = sdpa_mask(
        q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **kwargs
    )
    return mask


def experts(module: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts' adapter if one is at work (the child `adapter`), else the stock computation.

    hidden (T, H), top_k_index and top_k_weights (T, K) → (T, H).
    """
    adapter = getattr(module, "adapter", None)
    forward = _stock_experts if adapter is None or not adapter.at_work else adapter
    out: Tensor = forward(module, hidden, top_k_index, top_k_weights)
    return out


def _stock_experts(module: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The fastest exact stock implementation."""
    name = stock_experts(hidden, top_k_index.numel(), module.num_experts)
    # What the registry calls "eager" is the class's own.
    stock = type(module).forward.__wrapped__ if name == "eager" else ALL_EXPERTS_FUNCTIONS[name]
    out: Tensor = stock(module, hidden, top_k_index, top_k_weights)
    return out


def stock_experts(hidden: Tensor, choices: int, experts: int) -> str:
    """The registry's name of the fastest exact stock implementation, for that many choices of all tokens.

    CPU: grouped_mm is 1.1–3 times faster than the class's own loop at every T, and up to 40 times batched_mm.
    CUDA: batched_mm while decoding (it copies the chosen experts), grouped_mm otherwise, as transformers'
    own `generate` does. float64 has no grouped kernel: the class's loop.
    """
    if hidden.dtype == torch.float64:
        return "eager"
    decoding = hidden.is_cuda and not torch.is_grad_enabled() and choices < experts
    return "batched_mm" if decoding else "grouped_mm"


def _refuse_hidden_boundaries(position_ids: Tensor) -> None:
    if position_ids.shape[-1] > 1 and bool((position_ids.diff(dim=-1) <= 0).any()):
        raise ModelError(
            "position_ids restart inside a row but no boundaries were given, so its sequences would see each "
            "other: pass cu_seq_lens_q, cu_seq_lens_k and use_cache=False, or an attention_mask"
        )
