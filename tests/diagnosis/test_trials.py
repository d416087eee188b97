"""Short runs from the base."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from seektune.adapters.attach import adapters
from seektune.config.adapter import AdapterSpec
from seektune.config.training import TrainingConfig
from seektune.diagnosis.trials import (
    LEAST_STEPS,
    MOST_STEPS,
    Bench,
    Reference,
    Trial,
    last_loss,
    mean_loss,
    trial_steps,
    warmup_share,
)
from seektune.types import StepMetrics

SPEC = AdapterSpec(r=4, target_modules=("attention",))


def steps(losses: list[float], seconds: float = 1.0, eval_loss: float | None = None) -> list[StepMetrics]:
    return [
        StepMetrics(n, n / 9, loss, 1e-3, 1.0, 10, seconds, eval_loss) for n, loss in enumerate(losses, 1)
    ]


def test_a_trial_learns_and_leaves_the_base_as_it_was(bench: Bench) -> None:
    before = {key: value.clone() for key, value in bench.loaded.model.state_dict().items()}
    base = bench.base_loss()
    trial = bench.run("here", SPEC, seeds=(0, 1))
    assert trial.loss < base
    assert 0 < trial.spread < base
    assert adapters(bench.loaded) == ()
    after = bench.loaded.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert bench.base_loss() == base


def test_the_same_trial_gives_the_same_loss(bench: Bench) -> None:
    assert bench.run("a", SPEC).losses == bench.run("b", SPEC).losses


def test_a_trial_that_diverges_has_an_infinite_loss(bench: Bench) -> None:
    trial = bench.run("far", SPEC, learning_rate=1e30)
    assert math.isinf(trial.loss)
    assert math.isinf(trial.spread)
    assert trial.to_json()["losses"] == [None]


def test_the_loss_of_a_model_that_is_not_finite_is_infinite(bench: Bench) -> None:
    with torch.no_grad():
        bench.loaded.model.get_output_embeddings().weight.fill_(float("nan"))
    assert math.isinf(mean_loss(bench.loaded, bench.scored))


def test_a_trial_convicts_only_where_it_beats_the_whole_run_and_its_own_kind() -> None:
    here = Trial("here", (1.0,), 5, 1e-3)
    assert Reference(2.0, 0.5, 100).before(here) == 0.5
    overfitted = Reference(2.0, 3.0, 100)
    assert overfitted.before(here) == 1.0
    assert overfitted.beats(0.5, 1.0)
    assert not overfitted.beats(0.9, 1.0)
    assert not overfitted.beats(0.001, 0.01)  # next to nothing of what the base had
    assert overfitted.gain(0.5, 1.0) == 0.25


def test_a_trial_is_a_third_of_the_run_at_most_and_fits_the_budget() -> None:
    assert trial_steps([], 10, 10) == 0
    assert trial_steps(steps([1.0] * 30), 10, 10) == 10
    assert trial_steps(steps([1.0] * 900), 10, 10) == MOST_STEPS
    assert trial_steps(steps([1.0] * 900, seconds=3), 10, 10) == 20
    assert trial_steps(steps([1.0] * 900, seconds=60), 10, 10) < LEAST_STEPS


def test_a_broken_run_stands_at_its_last_losses() -> None:
    assert last_loss(steps([9.0] * 5 + [1.0] * 10)) == 1.0
    assert last_loss(steps([1.0] * 5, eval_loss=2.0)) == 2.0
    assert math.isinf(last_loss(steps([float("nan")] * 10)))
    *_, last = steps([1.0] * 5)
    assert math.isinf(last_loss([replace(last, findings=({"action": "stop"},))]))


@pytest.mark.parametrize(
    ("settings", "trial", "share"),
    [
        ({}, 50, 0.0),
        ({"warmup_ratio": 0.1}, 50, 0.1),
        ({"warmup_steps": 100}, 50, 0.1),
        ({"warmup_steps": 9}, 2, 0.0),
    ],
)
def test_warm_up_is_scaled_to_the_trial(settings: dict[str, Any], trial: int, share: float) -> None:
    assert warmup_share(TrainingConfig(**settings), trial) == share
