from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seektune.adapters.attach import deltas_of
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.lowrank import LowRank
from seektune.adapters.participation import clear, gradient_problems, used
from seektune.models.load import Loaded

Build = Callable[..., Loaded]
ATTENTION, EXPERTS = "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.experts"


@pytest.fixture
def loaded(adapted: Build, rows: Tensor) -> Loaded:
    """After one backward."""
    loaded = adapted("deepseek_v3", target_modules=["attention", "routed"])
    loaded.model.train()(rows, labels=rows, use_cache=False).loss.backward()
    return loaded


def test_what_ran_and_which_experts_were_reached_is_known_until_it_is_cleared(loaded: Loaded) -> None:
    deltas = deltas_of(loaded, "default")
    linear, experts = deltas[ATTENTION], deltas[EXPERTS]
    assert isinstance(experts, ExpertsLowRank)
    assert used(linear) == [0]
    assert 0 < len(used(experts)) <= len(experts.experts)
    moved = experts.gate_up_B.grad
    assert moved is not None
    assert used(experts) == moved.flatten(1).any(1).nonzero().flatten().tolist()
    for delta in (linear, experts):
        clear(delta)
        assert used(delta) == []


def test_a_chosen_expert_is_known_by_its_own_number(loaded: Loaded, adapted: Build, rows: Tensor) -> None:
    hit = used(deltas_of(loaded, "default")[EXPERTS])
    chosen = adapted("deepseek_v3", target_modules=["routed"], experts={1: [hit[-1]]})
    chosen.model.train()(rows, labels=rows, use_cache=False).loss.backward()
    assert hit[-1] > 0
    assert used(deltas_of(chosen, "default")[EXPERTS]) == [hit[-1]]


def test_a_sound_backward_has_no_problem_and_each_fault_is_named(loaded: Loaded) -> None:
    deltas = deltas_of(loaded, "default")
    linear, experts = deltas[ATTENTION], deltas[EXPERTS]
    assert isinstance(linear, LowRank)
    assert isinstance(experts, ExpertsLowRank)
    assert not [line for site, delta in deltas.items() for line in gradient_problems(site, delta)]
    assert linear.lora_B.grad is not None
    linear.lora_B.grad[0, 0] = float("nan")
    assert experts.down_B.grad is not None
    hit = used(experts)[0]
    experts.down_B.grad[hit] = 0
    assert list(gradient_problems(ATTENTION, linear)) == [
        f"{ATTENTION}.lora_B has a gradient that is not finite"
    ]
    (line,) = gradient_problems(EXPERTS, experts)
    assert line.startswith(f"{EXPERTS}.down_B of expert {hit} has a gradient of zero")
    linear.lora_B.grad = None
    assert "has no gradient" in next(gradient_problems(ATTENTION, linear))


def test_what_took_no_part_is_not_asked(loaded: Loaded) -> None:
    delta = deltas_of(loaded, "default")[ATTENTION]
    assert isinstance(delta, LowRank)
    clear(delta)
    delta.lora_B.grad = torch.zeros_like(delta.lora_B)
    assert not list(gradient_problems(ATTENTION, delta))
