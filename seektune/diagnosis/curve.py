"""The loss on rows not seen before over the epochs, and where it would go: would a longer run help?

The training loss of the first epoch is such a loss, later ones are not: they count rows learnt by heart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seektune.types import StepMetrics

BINS = 12
"""Points that the first epoch becomes."""

ENOUGH = 6
"""Points below which nothing is fitted."""

RECENT = 1 / 3
"""Share of the run from which points are fitted, where they are enough: a start follows no power law."""

NOISE, SHARED = 0.01, 2.0
"""Least relative error of a point, and the factor on the variance for errors that points in a row share."""

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True)
class Point:
    """A loss on unseen rows after so many epochs; `evaluated` or of the training rows as they came."""

    epochs: float
    loss: float
    evaluated: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run of `epochs` would gain over this one, as shares of its loss, with a 90 % interval."""

    epochs: float
    low: float
    gain: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The points, the loss that the fit ends at, and what longer runs would gain; empty when unknown."""

    points: tuple[Point, ...]
    epochs: float
    loss: float | None = None
    forecasts: tuple[Forecast, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def learning_curve(steps: Sequence[StepMetrics], *, own_split: bool = True) -> Curve:
    """The curve of a run; without `own_split` the held-out rows are of another source and stand alone."""
    steps = [step for step in steps if step.applied]
    evaluated = [Point(step.epoch, step.eval_loss, True) for step in steps if step.eval_loss is not None]
    points = [point for point in evaluated if math.isfinite(point.loss)]
    if own_split or len(points) < 2:
        points = first_epoch(steps) + points
    epochs = steps[-1].epoch if steps else 0.0
    fitted = [point for point in points if point.loss > 0]
    recent = [point for point in fitted if point.epochs >= RECENT * epochs]
    fitted = recent if len(recent) >= ENOUGH else fitted
    if len(fitted) < ENOUGH:
        return Curve(tuple(points), epochs)
    horizons = [at for at in (5.0, 10.0) if at > 1.2 * epochs] or [2 * epochs]
    loss, forecasts = extrapolated(fitted, epochs, horizons)
    return Curve(tuple(points), epochs, loss, forecasts)


def first_epoch(steps: Sequence[StepMetrics]) -> list[Point]:
    """The training losses of the first epoch, whose rows were new, as token-weighted means of some steps."""
    fresh = [step for step in steps if step.epoch <= 1 + 1e-9 and math.isfinite(step.loss)]
    parts = [part for part in np.array_split(np.arange(len(fresh)), min(BINS, len(fresh) or 1)) if len(part)]
    points = []
    for part in parts:
        chosen = [fresh[number] for number in part]
        tokens = sum(step.tokens for step in chosen)
        loss = sum(step.loss * step.tokens for step in chosen) / max(tokens, 1)
        points.append(Point(sum(step.epoch for step in chosen) / len(chosen), loss, False))
    return points


def extrapolated(
    points: Sequence[Point], epochs: float, horizons: Sequence[float]
) -> tuple[float, tuple[Forecast, ...]]:
    """Fit loss = c + a·epochs^−b and carry it on: (loss at `epochs`, one forecast per horizon).

    Every (b, c) of a grid gets the best a ≥ 0 and the weight exp(−misfit / 2σ²), σ² from the best fit's own
    misfit; the interval is that of the weighted curves, so points that fit many curves give a wide one.
    """
    t = np.array([point.epochs for point in points])
    y = np.array([point.loss for point in points])
    b = np.geomspace(0.05, 8.0, 48)[:, None, None]
    c = (y.min() * np.linspace(0.0, 0.999, 41))[None, :, None]
    x = t**-b / y  # (b, 1, points), relative
    rest = 1 - c / y
    a = np.maximum((x * rest).sum(-1) / (x * x).sum(-1), 0)[..., None]
    misfit = ((rest - a * x) ** 2).sum(-1)  # (b, c)
    variance = SHARED * max(float(misfit.min()) / max(len(points) - 3, 1), NOISE**2)
    weights = np.exp(-(misfit - misfit.min()) / (2 * variance))

    def at(when: float) -> NDArray[np.float64]:
        return np.asarray(c[..., 0] + a[..., 0] * when ** -b[..., 0])

    now = at(epochs)
    best = np.unravel_index(misfit.argmin(), misfit.shape)
    forecasts = []
    for horizon in horizons:
        low, middle, high = _quantiles(1 - at(horizon) / now, weights)
        forecasts.append(Forecast(horizon, low, middle, high))
    return float(now[best]), tuple(forecasts)


def _quantiles(values: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float, float]:
    flat = np.broadcast_to(values, weights.shape).ravel()
    order = np.argsort(flat)
    summed = np.cumsum(weights.ravel()[order])
    low, middle, high = (
        float(flat[order][np.searchsorted(summed, share * summed[-1])]) for share in QUANTILES
    )
    return low, middle, high
