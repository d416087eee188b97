"""The dtype of a loaded model."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give the model's stored tensors `dtype`, in place, as `from_pretrained(dtype=…)` would.

    Not `model.to(dtype)`, which also halves what transformers keeps in float32: V3's correction bias, V4's
    norms and sinks (one logit off without), and rotary frequencies.
    """
    kept = model._get_dtype_plan(dtype)  # parts of names
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32 if any(part in name for part in kept) else dtype)
