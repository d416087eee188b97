from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from seektune.errors import ConfigError
from seektune.training.schedule import planned_steps, schedule


class Epoch:
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


@pytest.mark.parametrize(
    ("batches", "accumulate", "epochs", "steps"),
    [(10, 1, 3, 30), (10, 4, 1, 3), (10, 4, 2, 6), (10, 1, 0.25, 3), (7, 7, 0.01, 1), (10, 3, 1.5, 6)],
)
def test_epochs_are_counted_in_whole_accumulation_windows(
    batches: int, accumulate: int, epochs: float, steps: int
) -> None:
    counted = planned_steps(
        Epoch(batches), max_steps=-1, num_train_epochs=epochs, gradient_accumulation_steps=accumulate
    )
    assert counted == steps


def test_max_steps_overrides_epochs_in_both_directions() -> None:
    for max_steps in (2, 1000):
        counted = planned_steps(
            Epoch(10), max_steps=max_steps, num_train_epochs=1, gradient_accumulation_steps=1
        )
        assert counted == max_steps


def rates(kind: str, steps: int, **warmup: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(
        optimizer, kind, total_steps=steps, **({"warmup_steps": 0, "warmup_ratio": 0.0} | warmup)
    )
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_linear_decay_begins_at_the_full_rate_and_every_step_counts() -> None:
    assert rates("linear", 4) == [1.0, 0.75, 0.5, 0.25]


def test_warm_up_rises_from_zero_and_steps_override_the_ratio() -> None:
    assert rates("constant_with_warmup", 5, warmup_steps=2) == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert rates("constant_with_warmup", 5, warmup_steps=2, warmup_ratio=1.0) == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert rates("constant_with_warmup", 5, warmup_ratio=0.3) == [0.0, 0.5, 1.0, 1.0, 1.0]  # 1.5 steps: 2


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
def test_every_schedule_of_the_configuration_exists_and_never_ends_at_zero(kind: str) -> None:
    seen = rates(kind, 6)
    assert len(seen) == 6
    assert min(seen) > 0


def test_the_step_that_warm_up_wastes_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rates("linear", 5, warmup_steps=2)
    assert "the first of 2 warm-up steps has learning rate 0" in caplog.text
    caplog.clear()
    rates("linear", 5)
    assert not caplog.text


def test_a_schedule_without_warm_up_does_not_ignore_it() -> None:
    with pytest.raises(ConfigError, match="use constant_with_warmup"):
        rates("constant", 5, warmup_ratio=0.1)


def test_warm_up_may_not_waste_the_only_step() -> None:
    with pytest.raises(ConfigError, match="the only step would move nothing"):
        rates("linear", 1, warmup_ratio=0.1)
