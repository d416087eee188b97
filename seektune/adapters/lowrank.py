"""The low-rank delta of one linear: s · B A."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Init = bool | Literal["gaussian"]


class LowRank(nn.Module):
    """Adds `scaling · B A` to a linear (out, in); A and B are float32 whatever the base's dtype.

    `lora_A` (r, in), `lora_B` (out, r); `dropout` acts on the input of A, in training only. `ran` records
    that a forward with gradients used it.
    """

    def __init__(
        self, in_features: int, out_features: int, r: int, scaling: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.r = r
        self.scaling = scaling
        self.dropout = dropout
        self.ran = False
        self.lora_A = zeros(r, in_features)
        self.lora_B = zeros(out_features, r)

    def reset(self, init: Init, generator: torch.Generator) -> None:
        """Draw A (and, for `init` False, B) from a CPU generator: the same numbers on every device."""
        draw(self.lora_A, self.r, init, generator)
        if init is False:
            draw(self.lora_B, self.r, init, generator)

    @property
    def applied_dropout(self) -> float:
        """The dropout to apply now: 0 outside training."""
        return self.dropout if self.training else 0.0


def zeros(*shape: int) -> nn.Parameter:
    """A float32 parameter, whatever torch's default dtype is."""
    return nn.Parameter(torch.zeros(shape, dtype=torch.float32))


def draw(parameter: Tensor, r: int, init: Init, generator: torch.Generator) -> None:
    """Fill (…, out, in) as PEFT does: N(0, 1/r) for "gaussian", else kaiming-uniform with a = √5.

    The latter is uniform within ±1/√in.
    """
    values = torch.empty(parameter.shape)
    if init == "gaussian":
        values.normal_(std=1 / r, generator=generator)
    else:
        bound = parameter.shape[-1] ** -0.5
        values.uniform_(-bound, bound, generator=generator)
    with torch.no_grad():
        parameter.copy_(values)
