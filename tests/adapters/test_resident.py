"""What a wrapper holds of the resident adapters: stacks made late, plans kept, rows counted."""

from __future__ import annotations

import pytest
import torch

from seektune.adapters.resident import Current, ResidentExperts, ResidentLinears
from seektune.errors import AdapterError
from seektune.ops.multi_expert_lora import ExpertLora
from seektune.ops.multi_lora import mix_rows


def linears(current: Current) -> ResidentLinears:
    """Three slots of rank up to 4 at a linear 6 → 5; slot 1 has rank 2."""
    resident = ResidentLinears(current, (3, 4, 6, 5), [0, 2, 0])
    resident.stage(1, torch.ones(2, 6), torch.ones(2, 5))
    return resident


def test_memory_is_taken_when_the_first_adapter_comes():
    resident = ResidentLinears(Current(), (3, 4, 6, 5), [0, 0, 0])
    assert resident.stacks is None
    resident.stage(2, torch.full((2, 6), 3.0), torch.full((2, 5), 7.0))
    assert resident.stacks is not None
    a, b = resident.stacks
    assert (a.shape, b.shape) == ((3, 4, 6), (3, 4, 5))
    assert a[2, :2].eq(3).all()
    assert b[2, :2].eq(7).all()


def test_the_plan_is_kept_as_long_as_the_mix_is_the_same():
    current = Current(mix_rows([1, -1], [2, 1]))
    resident = linears(current)
    terms = resident.terms()
    assert resident.terms() is terms
    current.mix = mix_rows([1, -1], [2, 1])
    assert resident.terms() is not terms
    current.mix = None
    assert resident.terms() == []


def test_what_is_added_is_added_to_the_rows_of_the_slot_only():
    resident = linears(Current(mix_rows([-1, 1], [1, 2])))
    y = torch.zeros(3, 5)
    resident.add_(y, torch.ones(3, 6))
    assert y[:, 0].tolist() == [0.0, 12.0, 12.0]


def test_another_number_of_rows_is_refused_unless_all_are_of_one_slot():
    resident = linears(Current(mix_rows([-1, 1], [1, 2])))
    with pytest.raises(AdapterError, match="4 rows in a forward whose adapters were given for 3"):
        resident.add_(torch.zeros(4, 5), torch.ones(4, 6))
    resident.current.mix = mix_rows([1], [2])
    y = torch.zeros(4, 5)
    resident.add_(y, torch.ones(4, 6))
    assert y.eq(12).all()


def test_experts_are_at_work_only_where_a_row_has_an_adapter_for_them():
    lora = ExpertLora(*(torch.zeros(1, 1, 1) for _ in range(4)), (0,))
    experts = ResidentExperts(Current(), [None, lora])
    assert not experts.at_work
    experts.current.mix = mix_rows([0, -1], [1, 1])
    assert not experts.at_work
    experts.current.mix = mix_rows([0, 1], [1, 2])
    assert experts.at_work
    assert experts.slots(3).tolist() == [0, 1, 1]


def test_one_slot_covers_any_number_of_routed_rows():
    experts = ResidentExperts(Current(mix_rows([1], [2])), [None, None])
    assert experts.slots(4).tolist() == [1, 1, 1, 1]
    experts.current.mix = mix_rows([1, 0], [2, 1])
    with pytest.raises(AdapterError, match="given for 3"):
        experts.slots(4)
