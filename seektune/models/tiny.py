"""Tiny random models of every generation with a byte tokenizer, so that anything can be tried in seconds."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from seektune.data.templates.render import TEMPLATES
from seektune.errors import ModelError
from seektune.models.cast import cast
from seektune.models.families import Family, family_of

PREFIX = "tiny/"
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
_CHAT_TOKENS = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<image_placeholder>")
_VOCABULARY = 3 + 256 + len(_CHAT_TOKENS)  # ids 0 1 2 as DeepSeek's, then the bytes, then the chat tokens

_TEXT = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    # Weights of about 1/√hidden, so that every part moves the logits and a wrong one shows.
    "initializer_range": 0.1,
}
_GQA = _TEXT | {"num_key_value_heads": 2}
_EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
_MLA = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
_V3 = _TEXT | _EXPERTS | _MLA | {"q_lora_rank": 24, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2}
_INDEXER = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 2}

# One layer of each attention type and both routings; the compressors need rows of 8 tokens to take part.
_V4 = (
    {key: value for key, value in _TEXT.items() if key != "intermediate_size"}
    | _EXPERTS
    | {
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "partial_rotary_factor": 0.25,
        "q_lora_rank": 24,
        "o_groups": 2,
        "o_lora_rank": 16,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 4,
        "sliding_window": 16,
        "hc_mult": 2,
        "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
    }
)
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,  # 16 image tokens
    "vision_use_head": False,
}
_HIGH_RESOLUTION = {
    "model_type": "sam_vision_model",
    "hidden_size": 32,
    "mlp_dim": 64,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "num_pos_feats": 8,
}
_VL = {
    "text_config": _GQA | {"model_type": "llama"},
    "vision_config": _VISION,
    "image_token_id": _VOCABULARY - 1,
    "tie_word_embeddings": False,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GQA),
    "qwen2": ("qwen2", _GQA),
    "deepseek_v2": ("deepseek_v2", _V3 | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2_lite": (
        "deepseek_v2",
        _V3 | {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    ),
    "deepseek_v3": ("deepseek_v3", _V3),
    "deepseek_v32": ("deepseek_v32", _V3 | _INDEXER),
    "deepseek_v4": ("deepseek_v4", _V4),
    "deepseek_vl": ("deepseek_vl", _VL),
    "deepseek_vl_hybrid": ("deepseek_vl_hybrid", _VL | {"high_res_vision_config": _HIGH_RESOLUTION}),
}

TINY = tuple(_CONFIGS)
"""Names after `tiny/`."""


def tiny_model(
    name: str, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A seeded random model of about 0.1–0.3 M parameters, in evaluation mode, and its byte tokenizer.

    The weights depend on (name, seed) only and the global random state is left alone.
    """
    config = tiny_config(name)
    build = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build.from_config(config, dtype=torch.float32)
        _spread(model)
    cast(model, dtype)
    return model.eval(), tiny_tokenizer(name)[0]


def tiny_config(name: str) -> PretrainedConfig:
    """The configuration of `tiny/<name>`."""
    model_type, settings = _config(name)
    config: PretrainedConfig = AutoConfig.for_model(model_type, **settings)
    return config


def tiny_tokenizer(name: str) -> tuple[PreTrainedTokenizerFast, Family]:
    """The byte tokenizer of `tiny/<name>`, with the template of its family, and the family."""
    family = family_of(_config(name)[0])
    return byte_tokenizer(TEMPLATES[family.template]), family


def byte_tokenizer(chat_template: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer with one token per byte, DeepSeek's special tokens and the given chat template.

    Like DeepSeek's own it adds no BOS by itself, and the chat tokens are not special.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((BOS, EOS, PAD, *alphabet))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (BOS, EOS, PAD)])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in _CHAT_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=_TEXT["max_position_embeddings"],
    )


def _config(name: str) -> tuple[str, dict[str, Any]]:
    if name not in _CONFIGS:
        near = difflib.get_close_matches(name, TINY, n=1)
        hint = f"; did you mean tiny/{near[0]}?" if near else ""
        raise ModelError(f"there is no tiny/{name}{hint} (there are: {', '.join(TINY)})")
    return _CONFIGS[name]


@torch.no_grad()
def _spread(model: PreTrainedModel) -> None:
    """Random routers and biases: with transformers' zeros every token would go the same way."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("tid2eid"):
            n_experts = int(model.config.n_routed_experts)
            tensor.copy_(torch.rand(tensor.shape[0], n_experts).argsort(-1)[:, : tensor.shape[1]])
        elif name.endswith("mlp.gate.weight"):
            tensor.normal_(std=tensor.shape[-1] ** -0.5)
        elif name.endswith(("e_score_correction_bias", "proj.bias")):
            tensor.normal_(std=0.1)
