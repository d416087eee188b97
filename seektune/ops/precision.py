"""Which dtype an op computes in, and which base weights it refuses."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The autocast dtype where autocast applies (it leaves float64 alone, as torch does), else x's own."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is in float64: for statistics and logits of half precision inputs."""
    return x if x.dtype == torch.float64 else x.float()


def check_frozen(*weights: Tensor | None) -> None:
    """Raise ValueError on a base weight that wants a gradient: the ops compute none."""
    if torch.is_grad_enabled() and any(weight is not None and weight.requires_grad for weight in weights):
        raise ValueError(
            "a base weight requires a gradient, which this op does not compute: freeze it "
            "(seektune.attach does) or use the plain torch operation"
        )


def check_dtype(x: Tensor, *weights: Tensor | None) -> None:
    """Raise ValueError where x and a base weight differ in dtype, unless autocast is asked to cast them."""
    for weight in weights:
        if weight is not None and weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"the input is {x.dtype} but the base weight is {weight.dtype}: load the model in one dtype, "
                "or run under torch.autocast"
            )
