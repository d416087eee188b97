"""log p(target) per token straight from the hidden states, without the (T, V) logit matrix.

Only rows with a target are computed, a chunk at a time. The rows are independent, so their gradient
d log p / d hidden = W[target] − softmax(logits) W is made in the forward, while the logits exist.

Shapes: T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from seektune.ops.precision import at_least_float32, check_dtype, check_frozen, compute_dtype
from seektune.types import IGNORE

CHUNK_ELEMENTS = 2**23
"""Logits alive at once, 32 MB in float32: large enough for full speed, small beside the activations."""


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(hidden Wᵀ)[target] of each token, float32 (float64 for float64), 0 where IGNORE.

    hidden (T, H), weight (V, H) frozen, targets (T,) → (T,). A weighted loss is the caller's:
    `-(weights * log_probs).sum()`.
    """
    check_frozen(weight)
    check_dtype(hidden, weight)
    log_probs: Tensor = _LogProbs.apply(hidden.to(compute_dtype(hidden)), weight, targets)
    return log_probs


def cross_entropy_reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The formula, by plain autograd, on all logits at once."""
    logits = at_least_float32(F.linear(hidden, weight))
    return -F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        rows = (targets != IGNORE).nonzero().squeeze(1)
        weight = weight.to(hidden.dtype)
        log_probs = at_least_float32(hidden.new_zeros(0)).new_zeros(targets.shape)
        gradient = hidden.new_empty(len(rows) if ctx.needs_input_grad[0] else 0, hidden.shape[1])
        size = max(1, CHUNK_ELEMENTS // weight.shape[0])
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            log_probs[chunk], slope = _chunk(hidden[chunk], weight, targets[chunk], len(gradient) > 0)
            if slope is not None:
                torch.mm(slope, weight, out=gradient[start : start + size])
        ctx.save_for_backward(rows, gradient)
        ctx.shape = hidden.shape
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, gradient = ctx.saved_tensors
        d_hidden = gradient.new_zeros(ctx.shape)
        d_hidden[rows] = gradient * grad[rows, None].to(gradient.dtype)
        return d_hidden, None, None


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """log p(target) (N,) and, if asked, d log p / d logits (N, V) in the dtype of `hidden`."""
    logits = at_least_float32(hidden @ weight.t())
    logits.sub_(logits.amax(dim=1, keepdim=True))
    index = targets[:, None]
    picked = logits.gather(1, index)
    odds = logits.exp_()
    total = odds.sum(dim=1, keepdim=True)
    log_probs = (picked - total.log()).squeeze(1)
    if not with_slope:
        return log_probs, None
    slope = odds.div_(-total)
    slope.scatter_add_(1, index, torch.ones_like(picked))
    return log_probs, slope.to(hidden.dtype)
