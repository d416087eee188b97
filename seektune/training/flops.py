"""Floating-point operations of one row, from shapes alone: what a step must at least compute."""

from __future__ import annotations

from typing import Any

from torch import nn

from seektune.models.load import Loaded
from seektune.training.footprint import Terms, Workload, choices_per_token, decoder_layers


def flops(outlined: Loaded, added: Terms, load: Workload) -> float:
    """Multiplications and additions of one row, forward and backward; a product (m, k) x (k, n) has 2 m k n.

    The frozen base costs a forward and, from the lowest adapted layer up, the gradient of its input, not of
    its weights; a checkpointed layer costs its forward again.
    """
    total = 0.0
    for number, layer in enumerate(decoder_layers(outlined)):
        learns = number >= added.first
        forwards = 2 if learns and load.recomputes(number) else 1
        total += 2.0 * load.tokens * _values(layer) * (forwards + learns)
        total += _scores(layer.self_attn, load) * (forwards + 2.5 * learns)
        total += 2 * load.tokens * _adapter_values(layer, added) * (forwards + 2)
    vocabulary, width = outlined.model.get_output_embeddings().weight.shape
    return total + 4.0 * load.tokens * load.learned * int(vocabulary * width)


def _values(layer: Any) -> float:
    """Weights of a layer that a token meets."""
    dense: float = sum(child.weight.numel() for child in layer.modules() if isinstance(child, nn.Linear))
    if not hasattr(layer.mlp, "experts"):
        return dense
    experts = sum(parameter.numel() for parameter in layer.mlp.experts.parameters(recurse=False))
    share = choices_per_token(layer.mlp) / layer.mlp.experts.down_proj.shape[0]
    return dense + float(layer.mlp.gate.weight.numel() + share * experts)


def _scores(module: Any, load: Workload) -> float:
    """Forward of q kᵀ and its product with v, causal, as if every sequence were the longest."""
    heads = module.config.num_attention_heads
    query = getattr(module, "qk_head_dim", None) or module.head_dim
    value = getattr(module, "v_head_dim", query)
    return float(load.tokens * load.longest * heads * (query + value))


def _adapter_values(layer: Any, added: Terms) -> float:
    """Weights of a layer's adapter that a token meets."""
    linears = [child for child in layer.modules() if isinstance(child, nn.Linear) and added.on(child)]
    values: float = sum(added.r * (linear.in_features + linear.out_features) for linear in linears)
    experts: Any = getattr(layer.mlp, "experts", None)
    if added.on(experts):
        _, width, inner = experts.down_proj.shape
        passing = choices_per_token(layer.mlp) * added.share[id(experts)]
        values += float(passing * added.r * (2 * width + 3 * inner))
    return values
