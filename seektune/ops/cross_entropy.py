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
        wanted = ctx.needs_input_grad[0]
        gradient = hidden.new_empty(len(rows) if wanted else 0, hidden.shape[1])
        size = max(1, CHUNK_ELEMENTS // weight.shape[0])
        logits = hidden.new_empty(min(size, len(rows)), weight.shape[0])
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            part = torch.mm(hidden[chunk], weight.t(), out=logits[: len(chunk)])
            log_probs[chunk], odds = _normalise(part, targets[chunk], wanted)
            if odds is not None:
                gradient[start : start + size] = weight[targets[chunk]].addmm_(odds, weight, alpha=-1)
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


def _normalise(logits: Tensor, targets: Tensor, with_odds: bool) -> tuple[Tensor, Tensor | None]:
    """log p(target) (N,) and, if asked, softmax (N, V) in the dtype of `logits`, which are overwritten."""
    dtype, logits = logits.dtype, at_least_float32(logits)
    # Row by row inside, each row in cache; five passes over the whole chunk cost twice as much.
    torch.log_softmax(logits, dim=1, out=logits)
    log_probs = logits.gather(1, targets[:, None]).squeeze(1)
    return log_probs, logits.exp_().to(dtype) if with_odds else None
