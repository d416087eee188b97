"""Chosen experts among zeros for the others."""

from __future__ import annotations

import torch

from seektune.adapters.experts import ExpertsLowRank
from seektune.export.experts import every_expert


def test_chosen_experts_keep_their_rows_and_the_others_are_zero() -> None:
    delta = ExpertsLowRank((5, 8, 6), 2, 1.5, experts=[3, 1])
    delta.reset(False, torch.Generator().manual_seed(0))
    whole = every_expert(delta)
    assert (whole.complete, whole.r, whole.scaling) == (True, 2, 1.5)
    for name, rows in whole.named_parameters():
        chosen = delta.get_parameter(name)
        assert torch.equal(rows[[1, 3]], chosen)
        assert chosen.abs().min() > 0
        assert not rows[[0, 2, 4]].any()


def test_a_delta_of_all_experts_is_itself() -> None:
    delta = ExpertsLowRank((3, 8, 6), 2, 1.0)
    assert every_expert(delta) is delta
