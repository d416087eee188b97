from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import pytest
import torch

from seektune.ops import streamed_linear as module
from seektune.ops.streamed_linear import FEW, MAX_THREADS, streamed_linear, streamed_linear_reference, streams


@pytest.fixture(autouse=True)
def compiled_is_as_it_was() -> Iterator[None]:
    yield
    module.compiled.cache_clear()


@pytest.mark.parametrize("rows", FEW)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (31, 5), (200, 64), (576, 1536)])
@pytest.mark.parametrize("biased", [False, True])
def test_one_pass_is_no_worse_than_the_librarys_own_rounding(
    rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if biased else None
    exact = streamed_linear_reference(x.double(), weight.double(), None if bias is None else bias.double())
    out, plain = streamed_linear(x, weight, bias), streamed_linear_reference(x, weight, bias)
    one_rounding = (x.abs() @ weight.abs().t()).max() * torch.finfo(torch.float32).eps
    assert (out - exact).abs().max() <= 2 * (plain - exact).abs().max() + one_rounding


def test_rows_that_do_not_lie_together_and_parameters_are_taken() -> None:
    x, linear = torch.randn(3, 80)[:, 10:50], torch.nn.Linear(40, 7)
    with torch.no_grad():
        torch.testing.assert_close(streamed_linear(x, linear.weight, linear.bias), linear(x))
    with torch.inference_mode():
        torch.testing.assert_close(streamed_linear(x, linear.weight, linear.bias), linear(x))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_remains_so_in_its_own_row(broken: float) -> None:
    x, weight = torch.rand(3, 50), torch.rand(9, 50)
    x[1, 7] = broken
    out = streamed_linear(x, weight)
    assert torch.equal(out[1], torch.full((9,), broken)) or (out[1].isnan().all() and math.isnan(broken))
    assert out[[0, 2]].isfinite().all()


def test_other_weights_and_numbers_of_rows_are_left_to_the_library() -> None:
    weight = torch.randn(8, 6)
    assert streams(weight, 1)
    assert streams(weight, FEW[-1])
    assert not streams(weight, 0)
    assert not streams(weight, FEW[-1] + 1)
    assert not streams(weight.double(), 1)
    assert not streams(weight.bfloat16(), 1)
    assert not streams(weight.t(), 1)
    off_the_grid = torch.frombuffer(bytearray(200), dtype=torch.float32, offset=1, count=48).view(8, 6)
    assert not streams(off_the_grid, 1)


def test_more_threads_than_were_measured_are_left_to_the_library() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(MAX_THREADS + 1)
    try:
        assert not streams(torch.randn(8, 6), 1)
    finally:
        torch.set_num_threads(before)


def test_without_numba_everything_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    module.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert module.compiled() is None
    assert not streams(torch.randn(8, 6), 1)
