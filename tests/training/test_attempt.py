from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from seektune.training.attempt import Attempt
from seektune.training.window import windows


@pytest.fixture
def attempt(rows: Any) -> Attempt:
    window = next(windows(rows.grouped(4), 2))
    scored = tuple(torch.zeros(batch.input_ids.numel()) for batch in window.batches)
    return Attempt(window, window.batches, scored, 2.0, 0.5, 1e-4, 99, 512.0, time.perf_counter() - 3)


def test_an_attempt_is_one_line_of_the_records(attempt: Attempt) -> None:
    metrics = attempt.metrics(7, applied=False)
    assert (metrics.step, metrics.epoch, metrics.applied) == (7, 1.0, False)
    assert (metrics.loss, metrics.grad_norm, metrics.learning_rate) == (2.0, 0.5, 1e-4)
    assert (metrics.tokens, metrics.loss_scale) == (99, 512.0)
    assert metrics.seconds >= 3
    assert attempt.metrics(7).applied


@pytest.mark.parametrize("broken", [{"loss": float("nan")}, {"grad_norm": float("inf")}])
def test_an_update_needs_finite_numbers(broken: dict[str, float], attempt: Attempt) -> None:
    assert attempt.finite
    assert not replace(attempt, **broken).finite
