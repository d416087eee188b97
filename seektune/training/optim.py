"""The optimiser, and the learning rate of each part of the adapter relative to the run's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from seektune.config.training import TrainingConfig
from seektune.models.load import Loaded
from seektune.training.depth import Depth

FACTOR = "learning_rate_factor"
"""Key of a parameter group: its learning rate over the run's, where that is not 1."""


def optimizer_of(loaded: Loaded, settings: TrainingConfig, learning_rate: float) -> torch.optim.AdamW:
    """AdamW over what trains, as `settings` say; `learning_rate` is the run's, or its first stage's."""
    parts = groups(
        loaded,
        learning_rate=learning_rate,
        layerwise_lr_decay=settings.layerwise_lr_decay,
        loraplus_lr_ratio=settings.loraplus_lr_ratio,
    )
    return adamw(parts, learning_rate=learning_rate, weight_decay=settings.weight_decay)


def adamw(
    parameters: Iterable[nn.Parameter | dict[str, Any]],
    *,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """Torch's AdamW over parameters or groups of them, fused on CPU and CUDA; its state has their dtype.

    Decay applies to every parameter: adapters have neither biases nor norms, and shrinking A and B pulls the
    model towards its base.
    """
    given: list[Any] = list(parameters)
    each = [p for group in given for p in (group["params"] if isinstance(group, dict) else [group])]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in each)
    return torch.optim.AdamW(given, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def groups(
    loaded: Loaded, *, learning_rate: float, layerwise_lr_decay: float = 1.0, loraplus_lr_ratio: float = 1.0
) -> list[dict[str, Any]]:
    """What trains, in groups of one learning rate: one, in the model's order, where all rates are equal.

    The rate of a parameter is learning_rate · layerwise_lr_decay^(L − 1 − i) in layer i = 0 … L − 1 of the
    decoder's L: the last layer learns at the full rate. What stands before the first layer, such as a vision
    tower, counts as i = −1. Where the parameter is a B, of a linear or of routed experts, its rate is
    loraplus_lr_ratio times that (LoRA+, Hayou et al. 2024).
    """
    depth = Depth.of(loaded)
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in loaded.model.named_parameters():
        if parameter.requires_grad:
            factor = layerwise_lr_decay ** (depth.layers - 1 - depth.layer(name))
            factor *= loraplus_lr_ratio if name.endswith("_B") else 1.0
            found.setdefault(factor, []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * factor} | ({FACTOR: factor} if factor != 1 else {})
        for factor, parameters in found.items()
    ]


def base_rate(optimizer: torch.optim.Optimizer) -> float:
    """The run's learning rate now, whatever the parts of the adapter make of it."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group.get(FACTOR, 1.0))


def factors(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """The learning rates of parameters, by id, over the run's, where these differ."""
    return {
        id(p): group[FACTOR] for group in optimizer.param_groups if FACTOR in group for p in group["params"]
    }
