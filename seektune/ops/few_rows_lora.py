"""Low-rank terms of few rows of many adapters, in one compiled loop: y[t] += Σ_r (A_s[r]·x[t]) B_s[r].

For steps of decoding, in which a slot has a row or a few: the library's batched products of so few rows spend
their time around the arithmetic, here a row reads its slot's A and B once and nothing is gathered.

Shapes: T rows, S slots, R the largest rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seektune.ops.compiler import CUBE, FLAT, MATRIX, NUMBERS, Loop, compilable, compiled

FEW = 8
"""Rows a slot, on average, up to which the loop is faster."""


def few_rows_lora_(y: Tensor, x: Tensor, slots: Tensor, ranks: Sequence[int], a: Tensor, b: Tensor) -> Tensor:
    """Add to y (T, out) in place, of x (T, in), where `loops`; returns y.

    slots (T,) int64, −1 = none; slot s uses the first ranks[s] rows of a (S, R, in) and of b (S, R, out),
    scaled. y may be some columns of a wider matrix. Raises ValueError where shapes do not fit.
    """
    fit = len(y) == len(x) == len(slots) and (x.shape[1], y.shape[1]) == (a.shape[2], b.shape[2])
    if not fit or not len(ranks) == len(a) == len(b):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (y, x, slots, a, b))
        raise ValueError(f"shapes of y, x, slots, a, b do not fit: {shapes}, {len(ranks)} ranks")
    loop = _loop()
    assert loop is not None
    width, stride = y.shape[1], y.stride(0)
    flat = y.as_strided(((len(y) - 1) * stride + width,), (1,))
    of_slots = np.asarray(ranks, dtype=np.int64)
    loop(flat.numpy(), stride, x.contiguous().numpy(), slots.numpy(), of_slots, a.numpy(), b.numpy())
    return y


def few_rows_lora_reference(
    y: Tensor, x: Tensor, slots: Tensor, ranks: Sequence[int], a: Tensor, b: Tensor
) -> Tensor:
    """The formula, row by row, on a copy of y."""
    y = y.clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            rank = ranks[slot]
            y[row] += (a[slot, :rank] @ x[row]) @ b[slot, :rank]
    return y


def loops(y: Tensor, x: Tensor, used: int, a: Tensor, b: Tensor) -> bool:
    """Whether the loop takes these tensors, of rows of `used` slots, and is faster than the library."""
    few = 0 < len(x) <= FEW * used and not torch.is_grad_enabled()
    plain = y.dtype == x.dtype == a.dtype and y.stride(1) == 1
    return few and plain and compilable(a, b) and _loop() is not None


def _loop() -> Loop | None:
    return compiled(_add, FLAT, "i8", MATRIX, NUMBERS, NUMBERS, CUBE, CUBE)


def _add(y: Any, stride: Any, x: Any, slots: Any, ranks: Any, a: Any, b: Any) -> None:
    """Row t of y starts at y[t · stride]."""
    zero = np.float32(0)
    inputs, outputs = a.shape[2], b.shape[2]
    for t in range(len(slots)):
        slot = slots[t]
        if slot < 0:
            continue
        row = y[t * stride : t * stride + outputs]
        for r in range(ranks[slot]):
            low = zero
            for i in range(inputs):
                low += a[slot, r, i] * x[t, i]
            for o in range(outputs):
                row[o] += low * b[slot, r, o]
