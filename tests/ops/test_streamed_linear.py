from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seektune.ops import streamed_linear as module
from seektune.ops.streamed_linear import FEW, streamed_linear, streams


@pytest.mark.parametrize("rows", FEW)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (31, 5), (200, 64), (576, 1536)])
@pytest.mark.parametrize("biased", [False, True])
def test_one_pass_is_no_worse_than_the_librarys_own_rounding(
    rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    out, plain = streamed_linear(x, weight, bias), F.linear(x, weight, bias)

    def size(difference: Tensor) -> Tensor:
        return difference.square().mean().sqrt()

    assert size(out - exact) <= 2 * size(plain - exact) + torch.finfo(torch.float32).eps * size(exact)


def test_rows_that_do_not_lie_together_and_parameters_are_taken() -> None:
    x, linear = torch.randn(3, 80)[:, 10:50], torch.nn.Linear(40, 7)
    with torch.no_grad():
        torch.testing.assert_close(streamed_linear(x, linear.weight, linear.bias), linear(x))
    with torch.inference_mode():
        torch.testing.assert_close(streamed_linear(x, linear.weight, linear.bias), linear(x))


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    x, weight = torch.rand(3, 50), torch.rand(9, 50)
    x[1, 7] = torch.nan
    assert streamed_linear(x, weight).isfinite().all(1).tolist() == [True, False, True]


def test_widths_that_do_not_fit_are_an_error_and_read_nothing() -> None:
    with pytest.raises(ValueError, match=r"x \(1, 5\) is not as wide as the weight \(8, 6\)"):
        streamed_linear(torch.randn(1, 5), torch.randn(8, 6))


def test_other_weights_and_numbers_of_rows_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(8, 6)
    assert streams(weight, 1)
    assert streams(weight, FEW[-1])
    assert not streams(weight, 0)
    assert not streams(weight, FEW[-1] + 1)
    assert not streams(weight.double(), 1)
    monkeypatch.setattr(module, "compiled", lambda *_: None)
    assert not streams(weight, 1)
