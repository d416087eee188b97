from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.ops import few_rows_lora as module
from seektune.ops.few_rows_lora import FEW, few_rows_lora_, few_rows_lora_reference, loops


@settings(max_examples=60, deadline=None)
@given(
    slots=st.lists(st.integers(-1, 3), min_size=1, max_size=20),
    ranks=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    widths=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    seed=st.integers(0, 999),
)
def test_any_rows_of_any_slots_and_ranks_are_no_worse_than_the_librarys_own_rounding(
    slots: list[int], ranks: list[int], widths: tuple[int, int], seed: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    rows, (inputs, outputs) = len(slots), widths
    x, y = torch.randn(rows, inputs, generator=chance), torch.randn(rows, outputs, generator=chance)
    a = torch.randn(4, 9, inputs, generator=chance)
    b = torch.randn(4, 9, outputs, generator=chance)
    of_rows = torch.tensor(slots)
    exact = few_rows_lora_reference(y.double(), x.double(), of_rows, ranks, a.double(), b.double())
    plain = few_rows_lora_reference(y, x, of_rows, ranks, a, b)
    wide = torch.cat([y, y.new_full((rows, 3), 7.0)], 1)
    out = few_rows_lora_(wide[:, :outputs], x, of_rows, ranks, a, b)
    assert out.data_ptr() == wide.data_ptr()
    assert (wide[:, outputs:] == 7.0).all()
    most = few_rows_lora_reference(y.abs(), x.abs(), of_rows, ranks, a.abs(), b.abs()).max()
    allowed = 2 * (plain - exact).abs().max() + 2 * most * torch.finfo(torch.float32).eps
    assert (out - exact).abs().max() <= allowed
    base = of_rows < 0
    assert torch.equal(out[base], y[base])


def test_shapes_that_do_not_fit_are_an_error_and_nothing_is_written() -> None:
    y, x, slots = torch.zeros(2, 5), torch.ones(2, 6), torch.zeros(2, dtype=torch.int64)
    a, b = torch.ones(1, 3, 6), torch.ones(1, 3, 5)
    for wrong in ((y[:1], x, slots, [3], a, b), (y, x[:, :5], slots, [3], a, b), (y, x, slots, [3, 3], a, b)):
        with pytest.raises(ValueError, match="do not fit"):
            few_rows_lora_(*wrong)
    assert not y.any()


def test_many_rows_and_other_tensors_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(count: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(count, 5, dtype=dtype), torch.zeros(count, 6, dtype=dtype)

    stacks = torch.ones(2, 3, 6), torch.ones(2, 3, 5)
    with torch.no_grad():
        assert loops(*rows(FEW), 1, *stacks)
        assert not loops(*rows(FEW + 1), 1, *stacks)
        assert loops(*rows(2 * FEW), 2, *stacks)
        assert not loops(*rows(0), 1, *stacks)
        assert not loops(*rows(1, torch.float64), 1, *stacks)
        assert not loops(torch.zeros(5, 2).t(), rows(2)[1], 1, *stacks)
        monkeypatch.setattr(module, "compiled", lambda *_: None)
        assert not loops(*rows(1), 1, *stacks)
    assert not loops(*rows(1), 1, *stacks)
