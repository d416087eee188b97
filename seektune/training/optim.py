"""The optimiser."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def adamw(
    parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """Torch's AdamW over `parameters`, fused on CPU and CUDA; its state has their dtype, float32.

    Decay applies to every parameter: adapters have neither biases nor norms, and shrinking A and B pulls the
    model towards its base.
    """
    parameters = list(parameters)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)
