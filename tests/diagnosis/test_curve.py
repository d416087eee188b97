"""The loss on unseen rows, and its extrapolation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seektune.diagnosis.curve import ENOUGH, Point, extrapolated, first_epoch, learning_curve
from seektune.types import StepMetrics


def steps(
    losses: list[float], per_epoch: int, evaluated: dict[int, float] | None = None
) -> list[StepMetrics]:
    return [
        StepMetrics(n, n / per_epoch, loss, 1e-3, 1.0, 10, 1.0, (evaluated or {}).get(n))
        for n, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(("floor", "scale", "power"), [(0.5, 1.0, 0.5), (0.0, 2.0, 0.3), (1.0, 0.5, 1.0)])
def test_a_power_law_is_carried_on_where_it_goes(floor: float, scale: float, power: float) -> None:
    generator = np.random.default_rng(0)
    law = [(at, floor + scale * at**-power) for at in np.linspace(0.3, 3, 20)]
    points = [Point(at, loss * math.exp(generator.normal(0, 0.005)), True) for at, loss in law]
    loss, (five, ten) = extrapolated(points, 3.0, (5.0, 10.0))
    now = floor + scale * 3**-power
    assert loss == pytest.approx(now, rel=0.02)
    for forecast in (five, ten):
        true = 1 - (floor + scale * forecast.epochs**-power) / now
        assert forecast.low - 0.01 <= true <= forecast.high + 0.01


def test_the_interval_is_wide_where_the_points_fit_many_curves() -> None:
    noisy = [Point(at, (1 + 0.1 * (-1) ** n) / at, True) for n, at in enumerate(np.linspace(0.5, 2, 8))]
    clean = [Point(at, 1 / at, True) for at in np.linspace(0.5, 2, 8)]
    wide, narrow = (extrapolated(points, 2.0, (10.0,))[1][0] for points in (noisy, clean))
    assert wide.high - wide.low > narrow.high - narrow.low


def test_only_the_first_epochs_training_loss_counts_as_unseen() -> None:
    points = first_epoch(steps([2.0] * 24 + [0.1] * 24, per_epoch=24))
    assert {point.loss for point in points} == {2.0}
    assert max(point.epochs for point in points) <= 1


def test_one_evaluation_joins_the_first_epoch_and_horizons_lie_ahead() -> None:
    falling = [1 + 1 / n for n in range(1, 241)]
    curve = learning_curve(steps(falling[:60], 20, {60: 1.02}))
    assert curve.points[-1] == Point(3.0, 1.02, True)
    assert [forecast.epochs for forecast in curve.forecasts] == [5.0, 10.0]
    long = learning_curve(steps(falling, 20, {n: 1 + 1 / n for n in range(20, 241, 20)}))
    assert [forecast.epochs for forecast in long.forecasts] == [24.0]


def test_held_out_rows_of_another_source_stand_alone() -> None:
    curve = learning_curve(steps([9.0] * 20, 10, {10: 1.0, 20: 0.9}), own_split=False)
    assert [point.loss for point in curve.points] == [1.0, 0.9]


def test_too_few_points_are_not_fitted() -> None:
    curve = learning_curve(steps([1.0] * (ENOUGH - 1), 10))
    assert (curve.loss, curve.forecasts) == (None, ())
    assert learning_curve([]).points == ()
    assert curve.to_json()["epochs"] == 0.5
