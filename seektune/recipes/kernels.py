"""Which form of each operation would run on this machine, asked of the code that chooses, and why."""

from __future__ import annotations

import torch
from torch import Tensor

from seektune.models.backends import stock_experts
from seektune.ops.expert_lora import variant
from seektune.ops.packed_attention import blocks_are_faster
from seektune.ops.streamed_linear import streams
from seektune.recipes.check import Check

HIDDEN, INNER, EXPERTS, CHOICES, HEADS = 2048, 1408, 64, 6, 16
"""DeepSeek-V2-Lite."""

REASONS = {
    "loop": "no GPU: expert by expert, in blocks of rows",
    "grouped": "GPU, aligned widths: all experts in one launch",
    "grouped_mm": "transformers' fastest exact form here",
    "batched_mm": "GPU, few tokens: reads the chosen experts only",
    "blocks": "MLA in float32 on a CPU: a fifth faster",
    "sdpa": "torch's, sequence by sequence: no mask",
    "compiled": "CPU, up to 8 rows: one pass over the weights",
    "library": "torch's: GPU, many threads or no [cpu] extra",
    "fused": "linears, MLPs, norms, rotary: keep the least",
    "chunked": "never the whole matrix of logits",
}
"""Why each form runs."""


def kernels() -> list[Check]:
    """The operations of a step at the widths of DeepSeek-V2-Lite, in bfloat16 where nothing else is said."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hidden, gate_up = _like(device, 1, HIDDEN), _like(device, EXPERTS, 2 * INNER, HIDDEN)
    adapted = variant(hidden, gate_up, hidden.dtype).__name__
    with torch.no_grad():
        decoding = stock_experts(hidden, CHOICES, EXPERTS)
    return [
        _check("expert_lora", adapted.removeprefix("expert_lora_")),
        _check("experts", stock_experts(hidden, 256 * CHOICES, EXPERTS)),
        _check("experts_decoding", decoding),
        _check("attention", _attention(device, torch.bfloat16)),
        _check("attention_fp32", _attention(device, torch.float32)),
        _check("few_rows_fp32", "compiled" if streams(_like(device, 1, 1).float(), 1) else "library"),
        _check("others", "fused"),
        _check("cross_entropy", "chunked"),
    ]


def _check(name: str, form: str) -> Check:
    return Check(name, form, REASONS[form])


def _attention(device: torch.device, dtype: torch.dtype) -> str:
    """Of MLA, whose values are narrower than its keys; where they are not, it is sdpa everywhere."""
    q, k, v = (_like(device, 1, HEADS, 1, width).to(dtype) for width in (192, 192, 128))
    return "blocks" if blocks_are_faster(q, k, v) else "sdpa"


def _like(device: torch.device, *shape: int) -> Tensor:
    """A tensor of that shape which takes no memory."""
    return torch.zeros((), dtype=torch.bfloat16, device=device).expand(shape)
