"""Low-rank terms of few rows of many adapters, in one compiled loop: y[t] += Σ_r (A_s[r]·x[t]) B_s[r].

For steps of decoding, in which a slot has a row or a few: the library's batched products of so few rows spend
their time around the arithmetic, here a row reads its slot's A and B once and nothing is gathered.

Shapes: T rows, S slots, R the largest rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seektune.ops.compiler import CUBE, FLAT, MATRIX, NUMBERS, Loop, compilable, compiled
from seektune.ops.multi_lora import Mix

FEW = 8
"""Rows a slot, on average, up to which the loop is faster."""


class FewRows(NamedTuple):
    """What the loop needs of a batch at one linear, as numpy sees it: views, made once for many steps."""

    loop: Loop
    slots: Any  # (T,) int64, −1 = none
    ranks: Any  # (S,) int64
    a: Any  # (S, R, in)
    b: Any  # (S, R, out), scaled


def few_rows(mix: Mix, ranks: Sequence[int], a: Tensor, b: Tensor) -> FewRows | None:
    """The rows of a mix, and slot s's first ranks[s] rows of a (S, R, in) and of b (S, R, out), scaled.

    None where the library is faster: many rows a slot, another dtype or device, no compiler.
    """
    loop = loop_for(a, b) if 0 < mix.tokens <= FEW * len(mix.segments) else None
    if loop is None:
        return None
    return FewRows(loop, mix.slots.numpy(), np.asarray(ranks, dtype=np.int64), a.numpy(), b.numpy())


def loop_for(a: Tensor, b: Tensor) -> Loop | None:
    """The loop over such stacks, compiled by whoever asks first; None where the library is faster."""
    if not compilable(a, b):
        return None
    return compiled(_add, FLAT, "i8", MATRIX, NUMBERS, NUMBERS, CUBE, CUBE)


def few_rows_lora_(y: Tensor, x: Tensor, rows: FewRows) -> Tensor:
    """Add to y (T, out) in place, of x (T, in); returns y, which may be some columns of a wider matrix.

    Raises ValueError where shapes do not fit.
    """
    (count, width), (stride, step) = y.shape, y.stride()
    fit = count == len(rows.slots) and width == rows.b.shape[2] and step == 1
    if not fit or x.shape != (count, rows.a.shape[2]):
        raise ValueError(f"y {tuple(y.shape)} and x {tuple(x.shape)} are not those of the rows or the stacks")
    flat = y.as_strided(((count - 1) * stride + width,), (1,))
    rows.loop(flat.numpy(), stride, x.contiguous().numpy(), *rows[1:])
    return y


def few_rows_lora_reference(y: Tensor, x: Tensor, rows: FewRows) -> Tensor:
    """The formula, row by row, on a copy of y; in the dtype of y and x."""
    y = y.clone()
    a, b = (torch.from_numpy(stack).to(y.dtype) for stack in (rows.a, rows.b))
    for row, slot in enumerate(rows.slots):
        if slot >= 0:
            rank = int(rows.ranks[slot])
            y[row] += (a[slot, :rank] @ x[row]) @ b[slot, :rank]
    return y


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
