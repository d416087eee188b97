"""y = x Wᵀ for up to eight rows in float32 on a CPU, in one compiled pass over W at the speed of memory.

Decoding reads all weights for a few rows a step, and the library's product takes two to four times as long
(benchmarks/few_rows.py). numba compiles the loop where it is installed: pip install 'seektune[cpu]'.

Shapes: T rows, I in, O out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FEW = range(1, 9)
"""Numbers of rows for which one pass is faster."""

MAX_THREADS = 2
"""Threads of torch up to which it is: the loop runs on one. More were not measured."""

Product = Callable[[Any, Any, Any], None]


def streamed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias: x (T, I), weight (O, I), bias (O,) → (T, O), where `streams`; no gradients."""
    y = x.new_empty(len(x), len(weight))
    product = compiled()
    assert product is not None
    product(x.detach().contiguous().numpy(), weight.detach().numpy(), y.numpy())
    return y if bias is None else y.add_(bias)


def streamed_linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The library's own product."""
    return F.linear(x, weight, bias)


def streams(weight: Tensor, rows: int) -> bool:
    """Whether the pass takes this many rows of x in the weight's dtype, and is faster than the library."""
    plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()
    # A weight mapped from a file may begin at any byte, which compiled code does not expect.
    aligned = weight.data_ptr() % 4 == 0
    return rows in FEW and plain and aligned and torch.get_num_threads() <= MAX_THREADS and bool(compiled())


@cache
def compiled() -> Product | None:
    """The loop in machine code, after a second of compiling at the first call; None without numba."""
    try:
        import numba
    except ImportError:
        return None
    source = numba.types.Array(numba.float32, 2, "C", readonly=True)
    signature = numba.void(source, source, numba.float32[:, ::1])
    # Sums in any order, so that lanes can share them. All of "fast" would also assume that nothing is nan.
    compile_ = numba.njit(signature, fastmath={"reassoc", "contract", "nsz"}, nogil=True)
    product: Product = compile_(_product)
    return product


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
