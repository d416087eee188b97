from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from seektune.config.training import TrainingConfig
from seektune.errors import ConfigError
from seektune.training.schedule import Span, planned_spans, planned_steps, schedule, slow_down


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
    settings = TrainingConfig(num_train_epochs=epochs, gradient_accumulation_steps=accumulate)
    assert planned_steps(Epoch(batches), settings) == steps


def test_max_steps_overrides_epochs_in_both_directions() -> None:
    for max_steps in (2, 1000):
        settings = TrainingConfig(max_steps=max_steps, num_train_epochs=1)
        assert planned_steps(Epoch(10), settings) == max_steps


def test_every_stage_has_its_own_steps_and_rate() -> None:
    stages = ({"num_train_epochs": 0.5, "learning_rate": 1e-3}, {"max_steps": 4, "learning_rate": 1e-4})
    settings = TrainingConfig(stages=stages, gradient_accumulation_steps=2)  # type: ignore[arg-type]
    assert planned_spans(Epoch(10), settings) == [Span(3, 1e-3), Span(4, 1e-4)]
    assert planned_steps(Epoch(10), settings) == 7


def rates(kind: str, *steps: int, **warmup: Any) -> list[float]:
    """The rates of a run of one stage per number of steps; stage n of them at rate n."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    spans = [Span(count, float(number)) for number, count in enumerate(steps, start=1)]
    scheduler = schedule(optimizer, kind, spans, **({"warmup_steps": 0, "warmup_ratio": 0.0} | warmup))
    seen = []
    for _ in range(sum(steps)):
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


def test_every_stage_begins_anew() -> None:
    assert rates("linear", 2, 4) == [1.0, 0.5, 2.0, 1.5, 1.0, 0.5]
    assert rates("constant", 2, 1, 1) == [1.0, 1.0, 2.0, 3.0]
    assert rates("constant_with_warmup", 3, 3, warmup_steps=1) == [0.0, 1.0, 1.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
def test_one_span_is_transformers_own_schedule(kind: str) -> None:
    options = {} if kind == "constant" else {"warmup_steps": 2}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=2 if options else 0, num_training_steps=9)
    expected = []
    for _ in range(9):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert rates(kind, 9, **options) == expected


def test_a_stage_whose_only_step_is_wasted_is_named() -> None:
    with pytest.raises(ConfigError, match=r"stage 2: warm-up .* the only step would move nothing"):
        rates("linear", 3, 1, warmup_ratio=0.1)


def test_slowing_down_lowers_every_rate_to_come() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 8.0}]
    optimizer = torch.optim.SGD(groups)
    schedule_ = schedule(optimizer, "linear", [Span(4, 1.0)], warmup_steps=0, warmup_ratio=0.0)
    seen = []
    for step in range(4):
        if step == 2:
            slow_down(schedule_, 0.5)
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule_.step()
    assert seen == [[1, 8], [0.75, 6], [0.25, 2], [0.125, 1]]
