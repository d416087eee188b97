"""y = x Wᵀ for up to eight rows in float32 on a CPU, in one compiled pass over W at the speed of memory.

Decoding reads all weights for a few rows a step, and the library's product takes two to four times as long
(benchmarks/few_rows.py). Its slow twin is torch.nn.functional.linear.

Shapes: T rows, I in, O out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from seektune.ops.compiler import MATRIX, Loop, compilable, compiled

FEW = range(1, 9)
"""Numbers of rows for which one pass is faster."""


def streamed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias: x (T, I), weight (O, I), bias (O,) → (T, O), where `streams`; no gradients.

    Raises ValueError where x is not as wide as the weight.
    """
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} is not as wide as the weight {tuple(weight.shape)}")
    y = x.new_empty(x.shape[0], weight.shape[0])
    loop = _loop()
    assert loop is not None
    loop(x.detach().contiguous().numpy(), weight.detach().numpy(), y.numpy())
    return y if bias is None else y.add_(bias)


def streams(weight: Tensor, rows: int) -> bool:
    """Whether the pass takes this many rows of x in the weight's dtype, and is faster than the library."""
    return rows in FEW and compilable(weight) and _loop() is not None


def _loop() -> Loop | None:
    return compiled(_product, MATRIX, MATRIX, MATRIX)


def _product(x: Any, weight: Any, y: Any) -> None:
    """Write y: a row of W stays in the first cache for all rows of x, two of which share each load of it."""
    zero = np.float32(0)
    rows, inputs = x.shape
    for o in range(len(weight)):
        for t in range(0, rows - 1, 2):
            one = other = zero
            for i in range(inputs):
                w = weight[o, i]
                one += w * x[t, i]
                other += w * x[t + 1, i]
            y[t, o], y[t + 1, o] = one, other
        if rows % 2:
            last = zero
            for i in range(inputs):
                last += weight[o, i] * x[rows - 1, i]
            y[rows - 1, o] = last
