"""The low-rank delta of fused experts: E 5 experts, H 6, I 4."""

from __future__ import annotations

import torch

from seektune.adapters.experts import ExpertsLowRank

SHAPE = (5, 6, 4)


def test_a_chosen_subset_allocates_only_its_own_rows() -> None:
    delta = ExpertsLowRank(SHAPE, r=2, scaling=1.0, experts=[3, 1])
    shapes = {name: tuple(p.shape) for name, p in delta.named_parameters()}
    assert shapes == {
        "gate_up_A": (2, 2, 6),
        "gate_up_B": (2, 8, 2),
        "down_A": (2, 2, 4),
        "down_B": (2, 6, 2),
    }
    assert delta.experts == (1, 3)
    assert delta.slots.tolist() == [-1, 0, -1, 1, -1]
    assert not delta.complete


def test_all_experts_have_identity_slots() -> None:
    delta = ExpertsLowRank(SHAPE, r=2, scaling=1.0)
    assert delta.slots.tolist() == [0, 1, 2, 3, 4]
    assert delta.complete


def test_slots_are_not_part_of_the_state() -> None:
    assert "slots" not in ExpertsLowRank(SHAPE, r=2, scaling=1.0).state_dict()


def test_each_expert_draws_within_its_own_fan_in() -> None:
    delta = ExpertsLowRank(SHAPE, r=64, scaling=1.0)
    delta.reset(True, torch.Generator().manual_seed(0))
    for a, width in ((delta.gate_up_A, 6), (delta.down_A, 4)):
        bound = width**-0.5
        assert 0.9 * bound < a.abs().max().item() <= bound
    assert not delta.gate_up_B.any()
    assert not delta.down_B.any()
    delta.reset(False, torch.Generator().manual_seed(0))
    assert delta.gate_up_B.all()
    assert delta.down_B.all()


def test_weights_stay_float32_under_another_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        delta = ExpertsLowRank(SHAPE, r=2, scaling=1.0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in delta.parameters()} == {torch.float32}


def test_only_experts_of_tokens_with_a_gradient_are_recorded() -> None:
    delta = ExpertsLowRank(SHAPE, r=2, scaling=1.0, experts=[0, 1, 2, 4])
    assert not delta.reached_rows().any()
    index = torch.tensor([[0, 1], [2, 3], [4, 5]])  # 5 = E, no expert
    gradient = torch.zeros(3, 6)
    gradient[0, 3] = 1e-20
    delta.record(index, gradient)
    assert delta.reached_rows().tolist() == [True, True, False, False]
    gradient[2] = -1.0
    delta.record(index, gradient)
    assert delta.reached_rows().tolist() == [True, True, False, True]
