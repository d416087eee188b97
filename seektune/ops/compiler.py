"""Loops that no library has, in machine code for one thread of a CPU: numba, where it is installed.

`pip install 'seektune[cpu]'` brings it. Every such loop is the fast twin of something that runs without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

MAX_THREADS = 2
"""Threads of torch up to which a loop on one of them is faster than the library; more were not measured."""

MATRIX, CUBE, FLAT, NUMBERS = "f4[:,::1]", "f4[:,:,::1]", "f4[::1]", "i8[::1]"
"""Arguments of loops: contiguous float32, and int64."""

Loop = Callable[..., None]


@cache
def compiled(loop: Loop, *arguments: str) -> Loop | None:
    """`loop` over such arguments in machine code, after a second of compiling; None without numba."""
    try:
        from numba import njit
    except ImportError:
        return None
    # Sums in any order, so that lanes can share them. All of "fast" would also assume that nothing is nan.
    decorate: Any = njit(f"void({','.join(arguments)})", fastmath={"reassoc", "contract", "nsz"}, nogil=True)
    machine_code: Loop = decorate(loop)
    return machine_code


def compilable(*tensors: Tensor) -> bool:
    """Whether loops can read these tensors and one thread is enough: contiguous float32 on a CPU."""
    if torch.get_num_threads() > MAX_THREADS:
        return False
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_cpu or not tensor.is_contiguous():
            return False
        if tensor.data_ptr() % 4:  # mapped from a file it may begin at any byte
            return False
    return True
