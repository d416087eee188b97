from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.ops import few_rows_lora as module
from seektune.ops.few_rows_lora import FEW, few_rows, few_rows_lora_, few_rows_lora_reference
from seektune.ops.multi_lora import mix_rows


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
    count, (inputs, outputs) = len(slots), widths
    x, y = torch.randn(count, inputs, generator=chance), torch.randn(count, outputs, generator=chance)
    a = torch.randn(4, 9, inputs, generator=chance)
    b = torch.randn(4, 9, outputs, generator=chance)
    rows = few_rows(mix_rows(slots, [1] * count), ranks, a, b)
    if rows is None:
        assert count > FEW * len({slot for slot in slots if slot >= 0})
        return
    exact = few_rows_lora_reference(y.double(), x.double(), rows)
    plain = few_rows_lora_reference(y, x, rows)
    wide = torch.cat([y, y.new_full((count, 3), 7.0)], 1)
    out = few_rows_lora_(wide[:, :outputs], x, rows)
    assert out.data_ptr() == wide.data_ptr()
    assert (wide[:, outputs:] == 7.0).all()
    most = few_rows_lora_reference(y.abs(), x.abs(), rows._replace(a=abs(rows.a), b=abs(rows.b))).max()
    allowed = 2 * (plain - exact).abs().max() + 2 * most * torch.finfo(torch.float32).eps
    assert (out - exact).abs().max() <= allowed
    base = torch.tensor(slots) < 0
    assert torch.equal(out[base], y[base])


def test_shapes_that_do_not_fit_are_an_error_and_nothing_is_written() -> None:
    rows = few_rows(mix_rows([0], [2]), [3], torch.ones(1, 3, 6), torch.ones(1, 3, 5))
    assert rows is not None
    y, x = torch.zeros(2, 5), torch.ones(2, 6)
    for wrong in ((y[:1], x), (y, x[:1]), (y, x[:, :5]), (y[:, :4], x), (torch.zeros(5, 2).t(), x)):
        with pytest.raises(ValueError, match="not those of the rows or the stacks"):
            few_rows_lora_(*wrong, rows)
    assert not y.any()


def test_many_rows_and_other_tensors_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.ones(2, 3, 6), torch.ones(2, 3, 5)

    def taken(slots: list[int]) -> bool:
        return few_rows(mix_rows(slots, [1] * len(slots)), [3, 3], a, b) is not None

    assert taken([1] * FEW)
    assert not taken([1] * (FEW + 1))
    assert taken([0, 1] * FEW)
    assert not taken([])
    assert not taken([-1])
    assert few_rows(mix_rows([0], [1]), [3, 3], a.double(), b.double()) is None
    monkeypatch.setattr(module, "compiled", lambda *_: None)
    assert not taken([1])
