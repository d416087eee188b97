"""What one training step keeps in memory, part by part, from shapes alone.

Each part follows the code that allocates it: what the autograd functions of `ops` and transformers' layers
keep for the backward, what the loss and the backward of one layer need besides, AdamW's two moments.

T tokens of a row, H hidden width, I intermediate width, K experts of a token, r rank, b bytes of a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from seektune.adapters.attach import chosen_sites
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded
from seektune.ops.cross_entropy import CHUNK_ELEMENTS

Device = Literal["cpu", "cuda"]

FINE = 4
"""Bytes of a float32: adapters, their gradients and moments, statistics."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What memory depends on besides model and adapter."""

    tokens: int  # of the longest row
    longest: int  # tokens of its longest sequence
    dtype: torch.dtype = torch.bfloat16  # of the base
    learned: float = 1.0  # share of the tokens that carry loss
    device: Device = "cuda"
    gradient_checkpointing: bool = False
    every_n_layers: int = 1  # that are checkpointed
    gradient_accumulation_steps: int = 1
    saves: bool = False  # checkpoints are written from a copy while training goes on

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self.dtype.itemsize

    def recomputes(self, layer: int) -> bool:
        """Whether the layer of that number computes again what its backward needs."""
        return self.gradient_checkpointing and layer % self.every_n_layers == 0


@dataclass(frozen=True)
class Terms:
    """The low-rank terms: of each adapted module (by id) the share of its rows that pass one."""

    share: Mapping[int, float]
    r: int
    dropout: float
    first: int  # lowest layer with a term; below it nothing is kept

    def kept(self, itemsize: int, *linears: nn.Module | None) -> int:
        """Bytes a token: x Aᵀ of each adapted linear and, with dropout, a byte for each of its inputs."""
        adapted: list[Any] = [linear for linear in linears if self.on(linear)]
        masks = sum(linear.in_features for linear in adapted) if self.dropout else 0
        return len(adapted) * self.r * itemsize + masks

    def on(self, module: nn.Module | None) -> bool:
        """Whether the module carries a term."""
        return id(module) in self.share


def terms(loaded: Loaded, spec: AdapterSpec) -> Terms:
    """The low-rank terms that `spec` puts on an outlined model; raises TargetError as `attach` does."""
    share, layers = {}, []
    for site, experts in chosen_sites(loaded, spec):
        module: Any = site.module
        share[id(module)] = 1.0 if experts is None else len(experts) / module.down_proj.shape[0]
        layers.append(site.layer or 0)
    return Terms(share, spec.r, spec.lora_dropout, min(layers))


def adapter_values(module: Any, experts: Sequence[int] | None, r: int) -> int:
    """Parameters of the low-rank term of one site: r (in + out), or r (2 H + 3 I) of each chosen expert."""
    if isinstance(module, nn.Linear):
        return r * (module.in_features + module.out_features)
    count, width, inner = module.down_proj.shape
    return r * (count if experts is None else len(experts)) * int(2 * width + 3 * inner)


def activations(loaded: Loaded, added: Terms, load: Workload) -> list[int]:
    """Bytes that each layer keeps for its backward, first layer first; 0 below the first adapted layer."""
    return [
        0 if number < added.first else round(_layer(layer, added, load, lowest=number == added.first))
        for number, layer in enumerate(decoder_layers(loaded))
    ]


def decoder_layers(loaded: Loaded) -> Sequence[Any]:
    """The text model's layers."""
    layers: Sequence[Any] = loaded.model.get_decoder().layers
    return layers


def head(loaded: Loaded, load: Workload) -> tuple[int, int]:
    """Of the final norm and the loss: bytes kept for the backward, and bytes needed once, for the logits."""
    vocabulary, width = loaded.model.get_output_embeddings().weight.shape
    learned, b = load.tokens * load.learned, load.itemsize
    kept = load.tokens * (width * b + FINE) + learned * (width * b + 12)  # 12: place and log-prob
    rows = min(max(1, CHUNK_ELEMENTS // vocabulary), learned)
    copies = b if b == FINE else b + FINE + b  # logits, in float32 and as odds, where these are other tensors
    return round(kept), round(rows * vocabulary * copies + 2 * rows * width * b)


def transient(layer: Any, added: Terms, load: Workload) -> int:
    """Bytes that the backward of one layer needs besides what was kept: its widest moment."""
    mlp, b = layer.mlp, load.itemsize
    flow = 3 * width_of(layer) * b  # of the residual, into the branch, out of it
    if not hasattr(mlp, "experts"):
        return int(load.tokens * (flow + 3 * mlp.up_proj.out_features * b))
    shared = 3 * mlp.shared_experts.up_proj.out_features * b
    return round(load.tokens * (flow + max(float(shared), _routed_transient(mlp, added, load))))


def width_of(layer: Any) -> int:
    """Hidden width H."""
    return int(layer.input_layernorm.weight.shape[0])


def _layer(layer: Any, added: Terms, load: Workload, lowest: bool) -> float:
    """Bytes that one layer keeps; the lowest adapted one keeps nothing before its first adapted module."""
    mlp, fixed = layer.mlp, _router_weight(layer, load)
    branch = _moe if hasattr(mlp, "experts") else _mlp
    kept: float
    norm = width_of(layer) * load.itemsize + FINE
    if not lowest:
        kept = 2 * norm + _attention(layer.self_attn, added, load) + branch(mlp, added, load)
    elif any(added.on(module) for module in layer.self_attn.modules()):
        kept = norm + _attention(layer.self_attn, added, load) + branch(mlp, added, load)
    else:
        kept, fixed = branch(mlp, added, load, lowest=True), 0
    return load.tokens * kept + fixed


def _attention(module: Any, added: Terms, load: Workload) -> float:
    if type(module).__name__ not in ("LlamaAttention", "Qwen2Attention", *_LATENT):
        return _unfused_attention(module, added, load)
    return (_latent if type(module).__name__ in _LATENT else _plain)(module, added, load)


_LATENT = ("DeepseekV2Attention", "DeepseekV3Attention")


def _plain(module: Any, added: Terms, load: Workload) -> float:
    """q, k, v by one function, SDPA, o."""
    b, q, k, v, o = load.itemsize, module.q_proj, module.k_proj, module.v_proj, module.o_proj
    heads = q.out_features // module.head_dim
    kept: float = q.in_features * b + added.kept(b, q, k, v, o)
    kept += (2 * q.out_features + k.out_features + v.out_features) * b + heads * FINE
    return kept + (o.in_features * b if added.on(o) else 0)


def _latent(module: Any, added: Terms, load: Workload) -> float:
    """Multi-head latent attention: compressions, their norms, expansions, the rotated heads, o."""
    b, down, up, o = load.itemsize, module.kv_a_proj_with_mqa, module.kv_b_proj, module.o_proj
    query, value = module.qk_head_dim, module.v_head_dim
    kept: float = added.kept(b, down, up, o) + down.out_features * b + FINE
    kept += sum(linear.in_features * b for linear in (up, o) if added.on(linear))
    if module.q_proj is not None:
        kept += down.in_features * b + added.kept(b, module.q_proj)
    else:
        q_a, q_b = module.q_a_proj, module.q_b_proj
        kept += q_a.out_features * b + FINE + added.kept(b, q_a, q_b)
        kept += q_b.in_features * b if added.on(q_b) else 0
        kept += down.in_features * b if added.on(q_a) or added.on(down) else 0
    if hasattr(module.config, "rope_interleave"):  # V3 turns its angles into complex factors in each layer
        kept += 4 * module.qk_rope_head_dim
    if load.device == "cpu" and load.dtype == torch.float32 and value < query:
        kept += module.num_heads * 2 * query * b + up.out_features * b  # by blocks; v is a view of kv
    else:
        kept += module.num_heads * (4 * query * b + FINE)  # SDPA on padded values: q, k, v, out, sums
    return kept


def _unfused_attention(module: Any, added: Terms, load: Workload) -> float:
    """A guess for transformers' own attention: every linear's input and output, and the scores."""
    linears: list[nn.Linear] = [child for child in module.modules() if isinstance(child, nn.Linear)]
    values: float = sum(linear.in_features + 2 * linear.out_features for linear in linears)
    values += 2 * module.config.num_attention_heads * load.longest
    return values * load.itemsize + added.kept(load.itemsize, *linears)


def _mlp(module: Any, added: Terms, load: Workload, lowest: bool = False) -> float:
    """x, gate and up."""
    b, gate, up, down = load.itemsize, module.gate_proj, module.up_proj, module.down_proj
    kept: float = (up.in_features + 2 * up.out_features) * b
    return kept + added.kept(b, gate, up, down)


def _moe(module: Any, added: Terms, load: Workload, lowest: bool = False) -> float:
    """Shared experts, router and routed experts; x is kept once for all of them."""
    shared = module.shared_experts
    if not lowest:
        return _mlp(shared, added, load) + _router(module) + _routed(module, added, load)
    kept = _mlp(shared, added, load) if any(map(added.on, shared.children())) else 0
    if added.on(module.experts):
        kept += _routed(module, added, load) + (0 if kept else shared.up_proj.in_features * load.itemsize)
    return kept


def _router(module: Any) -> int:
    """Scores, chosen groups and experts and their weights, as V3 computes them."""
    gate = module.gate
    groups = 16 * int(getattr(gate, "num_group", None) or 0)
    return int(gate.weight.shape[0]) * (FINE + 1) + groups + 20 * choices_per_token(module) + FINE


def _routed(module: Any, added: Terms, load: Workload) -> float:
    experts, b, choices = module.experts, load.itemsize, choices_per_token(module)
    _, width, inner = experts.down_proj.shape
    if not added.on(experts):  # transformers' own: gate and up, their product, the output, three orders
        return float(choices * ((3 * inner + width) * b + 24 + FINE))
    passing = choices * added.share[id(experts)]
    masks = passing * (width + inner) if added.dropout else 0
    kept: float = choices * (2 * inner * b + FINE) + 2 * passing * added.r * b + masks
    if load.device == "cuda":  # grouped products keep the order of the rows too
        kept += choices * 17
    return kept


def _router_weight(layer: Any, load: Workload) -> int:
    """V2's and V3's routers keep a float32 copy of their weight where the base has another dtype."""
    gate = getattr(layer.mlp, "gate", None)
    return int(gate.weight.numel()) * FINE if gate is not None and load.dtype != torch.float32 else 0


def _routed_transient(mlp: Any, added: Terms, load: Workload) -> float:
    """The routed experts' backward: few rows at a time on a CPU, all at once on a GPU.

    Without adapter it is plain autograd, which frees what was kept as it goes.
    """
    width, inner = map(int, mlp.experts.down_proj.shape[1:])
    if not added.on(mlp.experts):
        return choices_per_token(mlp) * (2 * width + inner) * load.itemsize
    if load.device == "cpu":
        return 2 * width * FINE
    return choices_per_token(mlp) * (2 * width * load.itemsize + inner * (3 * load.itemsize + 2 * FINE))


def choices_per_token(mlp: Any) -> int:
    """Experts that a token is sent to."""
    return int(mlp.gate.top_k)
