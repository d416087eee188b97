from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

from seektune.ops.compiler import FLAT, MAX_THREADS, compilable, compiled


def total(x: Any, out: Any) -> None:
    for value in x:
        out[0] += value


def test_a_loop_is_compiled_once_and_computes_what_python_does() -> None:
    loop = compiled(total, FLAT, FLAT)
    assert loop is not None
    assert compiled(total, FLAT, FLAT) is loop
    x, out = np.arange(5, dtype=np.float32), np.zeros(1, dtype=np.float32)
    loop(x, out)
    assert out[0] == x.sum()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_remains_so(broken: float) -> None:
    loop = compiled(total, FLAT, FLAT)
    assert loop is not None
    x, out = np.ones(100, dtype=np.float32), np.zeros(1, dtype=np.float32)
    x[50] = broken
    loop(x, out)
    np.testing.assert_array_equal(out[0], np.float32(broken))


def test_without_numba_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert compiled.__wrapped__(total, FLAT, FLAT) is None


def test_loops_read_contiguous_float32_only() -> None:
    matrix = torch.randn(8, 6)
    assert compilable(matrix, matrix[2:])
    assert not compilable(matrix, matrix.double())
    assert not compilable(matrix.t())
    assert not compilable(matrix.bfloat16())
    off_the_grid = torch.frombuffer(bytearray(200), dtype=torch.float32, offset=1, count=48)
    assert not compilable(off_the_grid)


def test_more_threads_than_were_measured_are_left_to_the_library() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(MAX_THREADS + 1)
    try:
        assert not compilable(torch.randn(8, 6))
    finally:
        torch.set_num_threads(before)
