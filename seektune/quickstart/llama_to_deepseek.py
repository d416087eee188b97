"""Exact conversion of a Llama (grouped-query attention, dense) into the DeepSeek-V3 architecture.

Every weight of the twin is a copy of the Llama's; no training, no approximation beyond rounding:

- Keys of all groups become MLA's one shared rotary key, (groups · head_dim) wide; each query head is zero
  outside its own group. The frequencies of a head repeat per group through longrope factors, and
  `attention_factor` turns MLA's 1/√(nope + rope) into the Llama's 1/√head_dim.
- Values become the latent. MLA normalises the latent, so constant channels K ≫ |v| join it: the norm then
  divides by a constant, which its own weight undoes. `kv_b_proj` copies each group's values to its heads.
- The MLP splits by rows: the first part is the shared expert, the rest is every routed expert alike. Gates
  sum to one, so the routed sum equals that part whatever the router picks; `noise` breaks the symmetry.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM

_NOPE = 32  # query and key dimensions without rotation; the twin leaves them without effect
_HEADROOM = 30  # constant channels over the largest value: the norm's error is its inverse square
_INIT = 0.02  # standard deviation of what the Llama has no counterpart for


@torch.no_grad()
def llama_to_deepseek(
    llama: LlamaForCausalLM, *, dense_layers: int, experts: int = 4, noise: float = 0.0, seed: int = 0
) -> DeepseekV3ForCausalLM:
    """The DeepSeek-V3 twin: `dense_layers` as they are, then layers of `experts` routed experts, top-2.

    noise: standard deviation added to routed experts, as a share of their weights' own; 0 is exact.
    """
    config = twin_config(llama.config, dense_layers=dense_layers, experts=experts)
    generator = torch.Generator().manual_seed(seed)
    state = _outer_tensors(llama)
    for index, layer in enumerate(llama.model.layers):
        tensors = _attention(layer.self_attn, config, generator) | _norms(layer)
        if index < dense_layers:
            tensors |= {f"mlp.{name}": weight for name, weight in layer.mlp.state_dict().items()}
        else:
            tensors |= _experts(layer.mlp, config, noise, generator)
        state |= {f"model.layers.{index}.{name}": tensor for name, tensor in tensors.items()}
    twin = DeepseekV3ForCausalLM(config).to(llama.dtype).eval()
    twin.load_state_dict(state)
    twin.generation_config = llama.generation_config
    return twin


def twin_config(llama: LlamaConfig, *, dense_layers: int, experts: int) -> DeepseekV3Config:
    """The twin's configuration; half of the MLP becomes routed."""
    latent, head_dim = llama.num_key_value_heads * llama.head_dim, llama.head_dim
    theta = llama.rope_parameters["rope_theta"]
    factors = [theta ** (2 * (i % (head_dim // 2)) / head_dim - 2 * i / latent) for i in range(latent // 2)]
    same_names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("rms_norm_eps", "tie_word_embeddings", "max_position_embeddings"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    )
    return DeepseekV3Config(
        **{name: getattr(llama, name) for name in same_names},
        num_key_value_heads=llama.num_attention_heads,
        q_lora_rank=None,
        kv_lora_rank=latent + math.ceil(latent / 3),  # a quarter constant: the norm's factor is exactly 2
        qk_nope_head_dim=_NOPE,
        qk_rope_head_dim=latent,
        v_head_dim=head_dim,
        attention_bias=True,  # carries the constant channels
        rope_interleave=False,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": theta,
            "short_factor": factors,
            "long_factor": factors,
            "factor": 1.0,
            "attention_factor": ((_NOPE + latent) / head_dim) ** 0.25,  # on query and key alike
            "original_max_position_embeddings": llama.max_position_embeddings,
        },
        first_k_dense_replace=dense_layers,
        moe_intermediate_size=llama.intermediate_size // 2,
        n_shared_experts=1,
        n_routed_experts=experts,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
    )


def _outer_tensors(llama: LlamaForCausalLM) -> dict[str, Tensor]:
    return {
        "model.embed_tokens.weight": llama.model.embed_tokens.weight,
        "model.norm.weight": llama.model.norm.weight,
        "lm_head.weight": llama.lm_head.weight,
    }


def _norms(layer: nn.Module) -> dict[str, Tensor]:
    names = ("input_layernorm.weight", "post_attention_layernorm.weight")
    return {name: layer.get_parameter(name) for name in names}


def _attention(
    attention: nn.Module, config: DeepseekV3Config, generator: torch.Generator
) -> dict[str, Tensor]:
    q, k, v = (attention.get_parameter(f"{name}_proj.weight") for name in "qkv")
    heads, head_dim, hidden = config.num_attention_heads, config.v_head_dim, config.hidden_size
    latent, rank = config.qk_rope_head_dim, config.kv_lora_rank
    groups, constant = latent // head_dim, rank - latent
    group_of = torch.arange(heads) // (heads // groups)
    place = _rotary_places(groups, head_dim)

    query = q.new_zeros(heads, _NOPE + latent, hidden)
    query[torch.arange(heads)[:, None], _NOPE + place[group_of]] = q.view(heads, head_dim, hidden)
    rotary_key = torch.empty_like(k)
    rotary_key[place.flatten()] = k
    # A power of two, as is √(constant / rank): stored in bfloat16 without rounding.
    level = 2.0 ** math.ceil(math.log2(float(v.norm(dim=1).max()) * math.sqrt(hidden) * _HEADROOM))
    bias = q.new_zeros(rank + latent)
    bias[latent:rank] = level
    expand = q.new_zeros(heads, _NOPE + head_dim, groups, head_dim)
    expand[torch.arange(heads), _NOPE:, group_of] = torch.eye(head_dim, dtype=q.dtype)
    expand = torch.cat([expand.flatten(2), q.new_zeros(heads, _NOPE + head_dim, constant)], dim=2)
    expand[:, :_NOPE, :latent] = _normal(generator, (heads, _NOPE, latent)).to(q.dtype) * _INIT
    tensors = {
        "q_proj.weight": query.flatten(0, 1),
        "kv_a_proj_with_mqa.weight": torch.cat([v, v.new_zeros(constant, hidden), rotary_key]),
        "kv_a_proj_with_mqa.bias": bias,
        "kv_a_layernorm.weight": q.new_full((rank,), level * math.sqrt(constant / rank)),
        "kv_b_proj.weight": expand.flatten(0, 1),
        "o_proj.weight": attention.get_parameter("o_proj.weight"),
        "o_proj.bias": q.new_zeros(hidden),
    }
    return {f"self_attn.{name}": tensor for name, tensor in tensors.items()}


def _rotary_places(groups: int, head_dim: int) -> Tensor:
    """(groups, head_dim): where each key dimension goes, so that both halves of its rotation stay paired."""
    half = head_dim // 2
    first = torch.arange(groups)[:, None] * half + torch.arange(half)
    return torch.cat([first, groups * half + first], dim=1)


def _experts(
    mlp: nn.Module, config: DeepseekV3Config, noise: float, generator: torch.Generator
) -> dict[str, Tensor]:
    gate, up, down = (mlp.get_parameter(f"{name}_proj.weight") for name in ("gate", "up", "down"))
    shared = config.moe_intermediate_size
    gate_up = torch.cat([gate[shared:], up[shared:]])
    tensors = {
        "shared_experts.gate_proj.weight": gate[:shared],
        "shared_experts.up_proj.weight": up[:shared],
        "shared_experts.down_proj.weight": down[:, :shared],
        "experts.gate_up_proj": _copies(gate_up, config.n_routed_experts, noise, generator),
        "experts.down_proj": _copies(down[:, shared:], config.n_routed_experts, noise, generator),
        "gate.weight": _normal(generator, (config.n_routed_experts, config.hidden_size)) * _INIT,
        "gate.e_score_correction_bias": torch.zeros(config.n_routed_experts),
    }
    return {f"mlp.{name}": tensor for name, tensor in tensors.items()}


def _copies(weight: Tensor, experts: int, noise: float, generator: torch.Generator) -> Tensor:
    """(experts, *weight.shape) copies, each with its own Gaussian noise."""
    spread = noise * weight.std()
    return torch.stack([weight + spread * _normal(generator, weight.shape) for _ in range(experts)])


def _normal(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator)
