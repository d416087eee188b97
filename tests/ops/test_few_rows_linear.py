from __future__ import annotations

import pytest
import torch

from seektune.ops import few_rows_linear as module
from seektune.ops.few_rows_linear import FEW, WIDE, few_rows_linear, few_rows_linear_reference, helps
from seektune.ops.streamed_linear import FEW as STREAMED
from seektune.ops.streamed_linear import streamed_linear


@pytest.mark.parametrize("rows", [1, 2, 7, 48, 49])
@pytest.mark.parametrize("outputs", [64, WIDE - 64, WIDE, WIDE + 32, WIDE + 50])
@pytest.mark.parametrize("biased", [False, True])
def test_blocks_are_no_worse_than_the_librarys_own_rounding(
    rows: int, outputs: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "streams", lambda weight, rows: False)
    x, weight = torch.randn(1, rows, 200), torch.randn(outputs, 200)
    bias = torch.randn(outputs) if biased else None
    exact = few_rows_linear_reference(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.no_grad():
        out, plain = few_rows_linear(x, weight, bias), few_rows_linear_reference(x, weight, bias)
    assert out.shape == plain.shape
    assert (out - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6


@pytest.mark.parametrize("rows", [1, STREAMED[-1]])
@pytest.mark.parametrize("biased", [False, True])
def test_up_to_eight_rows_are_the_compiled_pass(rows: int, biased: bool) -> None:
    x, weight = torch.randn(1, rows, 200), torch.randn(WIDE, 200)
    bias = torch.randn(WIDE) if biased else None
    with torch.no_grad():
        assert torch.equal(few_rows_linear(x, weight, bias)[0], streamed_linear(x[0], weight, bias))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_gradients_take_the_librarys_product(dtype: torch.dtype) -> None:
    x, weight = torch.randn(FEW[0], 64, dtype=dtype), torch.randn(WIDE, 64, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(few_rows_linear(x, weight), few_rows_linear_reference(x, weight))
    x.requires_grad_()
    few_rows_linear(x, weight).sum().backward()
    assert x.grad is not None


def test_mixed_dtypes_are_the_librarys_error() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        few_rows_linear(torch.randn(1, 64).double(), torch.randn(8, 64))


def test_narrow_weights_are_helped_by_the_compiled_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = torch.randn(WIDE, 8), torch.randn(WIDE - 1, 8)
    assert helps(wide)
    assert helps(narrow)
    assert not helps(narrow.double())
    monkeypatch.setattr(module, "streams", lambda weight, rows: False)
    assert helps(wide)
    assert not helps(narrow)
