"""The low-rank delta of one linear."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seektune.adapters.lowrank import LowRank, draw


def test_a_reset_delta_has_a_random_a_and_a_zero_b() -> None:
    delta = LowRank(32, 16, r=4, scaling=2.0)
    delta.reset(True, torch.Generator().manual_seed(0))
    assert delta.lora_A.shape == (4, 32)
    assert delta.lora_B.shape == (16, 4)
    assert delta.lora_A.all()
    assert not delta.lora_B.any()


def test_the_draw_is_peft_s_kaiming_uniform() -> None:
    ours, theirs = torch.empty(64, 100), torch.empty(64, 100)
    draw(ours, 64, True, torch.Generator().manual_seed(3))
    nn.init.kaiming_uniform_(theirs, a=5**0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours, theirs)


def test_the_gaussian_draw_has_a_deviation_of_one_over_the_rank() -> None:
    values = torch.empty(50, 400)
    draw(values, 50, "gaussian", torch.Generator().manual_seed(0))
    assert values.std().item() == pytest.approx(1 / 50, rel=0.02)


def test_without_initialisation_b_is_random_too_as_in_peft() -> None:
    delta = LowRank(32, 16, r=4, scaling=2.0)
    delta.reset(False, torch.Generator().manual_seed(0))
    assert delta.lora_B.all()


def test_the_same_seed_draws_the_same_numbers() -> None:
    drawn = []
    for _ in range(2):
        delta = LowRank(8, 8, r=2, scaling=1.0)
        delta.reset(True, torch.Generator().manual_seed(5))
        drawn.append(delta.lora_A)
    assert torch.equal(*drawn)


def test_a_model_in_double_precision_still_gets_a_float32_delta() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        delta = LowRank(8, 8, r=2, scaling=1.0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in delta.parameters()} == {torch.float32}


def test_dropout_applies_in_training_only() -> None:
    delta = LowRank(8, 8, r=2, scaling=1.0, dropout=0.3)
    assert delta.applied_dropout == 0.3
    assert delta.eval().applied_dropout == 0.0
