"""From logits to the next token."""

from __future__ import annotations

import torch
from torch import Tensor


def next_token(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """The likeliest token at temperature 0, else one drawn from softmax(logits / temperature).

    logits (V,); `generator` lives on their device and is not touched at temperature 0.
    """
    if temperature == 0:
        return int(logits.argmax())
    probabilities = (logits.float() / temperature).softmax(dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
