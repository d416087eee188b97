"""The DeepSeek family: per `model_type`, where its parts are and what its layers allow.

All patterns match a module's full name (`re.fullmatch`) in the causal-LM class of transformers 5.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from seektune.errors import ModelError

GROUPS = ("attention", "dense", "shared", "routed", "vision", "aligner")
"""Groups of targets; they mean the same on every generation."""

ALL_LINEAR = "all-linear"
"""The union of the attention, dense and shared groups."""

ATTENTION_NAMES = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),  # llama, qwen2
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),  # multi-head latent attention
    *("kv_proj", "o_b_proj"),  # V4
)
MLP_NAMES = ("gate_proj", "up_proj", "down_proj")

_HEAD = "the output head and the embeddings are never adapted: a low-rank delta there changes every token"
_ROUTER = "the router stays frozen: moving it would unlearn which expert knows what"
_INDEXER = "the indexer only selects positions, so no gradient ever reaches it"
_COMPRESSOR = "the compressor pools finished windows only: short rows give it no gradient"
_GROUPED = "o_a_proj is one matrix per head group, applied by bmm: a plain low-rank delta does not fit it"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One generation: groups of targets, router, refusals, chat template, and whether rows may be packed."""

    model_type: str
    groups: Mapping[str, str]  # group → pattern of its modules; routed → the fused experts module
    template: str  # name in data.templates, used when the tokenizer carries no chat template
    router: str | None = None  # modules whose weights and buffers must not move
    refused: Mapping[str, str] = field(default_factory=dict)  # pattern → why it is no target
    packs: bool = True  # False: native attention, one sequence per forward
    float16: bool = True  # False: transformers' class mixes dtypes in half precision

    @property
    def experts(self) -> str | None:
        """Pattern of the fused experts modules, None for a family without experts."""
        return self.groups.get("routed")


def _alternatives(names: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(names)})"


def _text_groups(attention: tuple[str, ...], prefix: str = r"model\.layers\.\d+\.") -> dict[str, str]:
    return {
        "attention": rf"{prefix}self_attn\.{_alternatives(attention)}",
        "dense": rf"{prefix}mlp\.{_alternatives(MLP_NAMES)}",
    }


def _expert_groups() -> dict[str, str]:
    layer = r"model\.layers\.\d+\."
    return {
        "shared": rf"{layer}mlp\.shared_experts\.{_alternatives(MLP_NAMES)}",
        "routed": rf"{layer}mlp\.experts",
    }


_REFUSED = {r"lm_head|.*embed_tokens|.*embeddings?(\..*)?": _HEAD}
_REFUSED_MOE = _REFUSED | {r"model\.layers\.\d+\.mlp\.gate": _ROUTER}
_GATE = r"model\.layers\.\d+\.mlp\.gate"
_LLAMA = _text_groups(("q_proj", "k_proj", "v_proj", "o_proj"))
_MLA = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
_VL_TEXT = _text_groups(("q_proj", "k_proj", "v_proj", "o_proj"), r"model\.language_model\.layers\.\d+\.")
_SIGLIP = r"model\.vision_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
_SAM = r"model\.high_res_vision_model\.vision_encoder\.layers\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.lin[12])"

_FAMILIES = (
    Family(model_type="llama", groups=_LLAMA, refused=_REFUSED, template="deepseek_v2"),
    Family(model_type="qwen2", groups=_LLAMA, refused=_REFUSED, template="deepseek_r1"),
    Family(
        model_type="deepseek_v2",  # V2-Lite has q_proj where V2 has q_a_proj and q_b_proj
        groups=_text_groups(("q_proj", *_MLA)) | _expert_groups(),
        router=_GATE,
        refused=_REFUSED_MOE,
        template="deepseek_v2",
    ),
    Family(
        model_type="deepseek_v3",
        groups=_text_groups(("q_proj", *_MLA)) | _expert_groups(),
        router=_GATE,
        refused=_REFUSED_MOE,
        template="deepseek_v3",
    ),
    Family(
        model_type="deepseek_v32",
        groups=_text_groups(_MLA) | _expert_groups(),
        router=_GATE,
        refused=_REFUSED_MOE | {r".*\.self_attn\.indexer(\..*)?": _INDEXER},
        template="deepseek_v32",
        packs=False,  # the indexer needs its native mask, and its own packing is inexact
    ),
    Family(
        model_type="deepseek_v4",
        groups={"attention": _text_groups(("q_a_proj", "q_b_proj", "kv_proj", "o_b_proj"))["attention"]}
        | _expert_groups(),
        router=_GATE,
        refused=_REFUSED_MOE
        | {
            r".*\.compressor\.indexer(\..*)?": _INDEXER,
            r".*\.self_attn\.compressor(\..*)?": _COMPRESSOR,
            r".*\.self_attn\.o_a_proj": _GROUPED,
        },
        template="deepseek_v32",
        packs=False,  # sinks, sliding window and compressed entries leak across packed rows
        float16=False,
    ),
    Family(
        model_type="deepseek_vl",
        groups=_VL_TEXT | {"vision": _SIGLIP, "aligner": r"model\.aligner\.linear[12]"},
        refused=_REFUSED,
        template="deepseek_vl",
    ),
    Family(
        model_type="deepseek_vl_hybrid",  # VL 7B: a second, high-resolution tower
        groups=_VL_TEXT
        | {
            "vision": rf"{_SIGLIP}|{_SAM}",
            "aligner": r"model\.aligner\.(?:vision_proj|high_res_vision_proj|proj)",
        },
        refused=_REFUSED,
        template="deepseek_vl",
    ),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _FAMILIES}


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`; ModelError with the reason or the near miss otherwise."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type == "deepseek":
        raise ModelError(
            "DeepSeek-MoE v1 (model_type 'deepseek') has no class in transformers 5, and its remote code no "
            "longer imports there; use DeepSeek-V2-Lite (deepseek_v2), the smallest one with experts"
        )
    near = difflib.get_close_matches(model_type, FAMILIES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ModelError(f"model_type {model_type!r} is not supported{hint} (supported: {', '.join(FAMILIES)})")
