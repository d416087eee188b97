"""Geometry of the report's drawings, in per cent of their frame: the page draws them at any width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seektune.types import Evaluation, StepMetrics


@dataclass(frozen=True)
class Tick:
    """A grid line: its place along the axis (0–100) and what stands there."""

    place: float
    label: str


@dataclass(frozen=True)
class Curve:
    """Loss over steps: SVG paths in a 100 × 100 frame, y downwards."""

    every_step: str
    smoothed: str
    evaluated: tuple[tuple[float, float, str], ...]  # x, y, what it says
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Bar:
    """An accuracy in per cent; `low` and `high` are its 95 % interval where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = "baseline"


def loss_curve(steps: Sequence[StepMetrics]) -> Curve | None:
    """The training loss, thin as logged and thick as a running mean, and the held-out loss as points.

    The loss axis is logarithmic: the first steps would flatten all others. Steps that were not applied are
    left out, and of one that was repeated the last counts. None below two steps: a point is no curve.
    """
    steps = list({step.step: step for step in steps if step.applied}.values())
    if len(steps) < 2:
        return None
    losses = [step.loss for step in steps]
    held_out = [
        (step.step, step.eval_loss)
        for step in steps
        if step.eval_loss is not None and math.isfinite(step.eval_loss)
    ]
    ticks = log_ticks(losses + [loss for _, loss in held_out])
    first, last = steps[0].step, steps[-1].step

    def x(step: float) -> float:
        return 100 * (step - first) / (last - first)

    def y(loss: float) -> float:
        return 100 * math.log(ticks[-1] / max(loss, ticks[0])) / math.log(ticks[-1] / ticks[0])

    places = [x(step.step) for step in steps]
    return Curve(
        every_step=_path(places, [y(loss) for loss in losses]),
        smoothed=_path(places, [y(loss) for loss in running_mean(losses, max(len(losses) // 15, 1))]),
        evaluated=tuple((x(at), y(loss), f"held-out loss {loss:.3f}, step {at}") for at, loss in held_out),
        x_ticks=tuple(
            Tick(x(step), f"{step:g}") for step in nice_ticks(first, last, about=5) if first <= step <= last
        ),
        y_ticks=tuple(Tick(y(loss), f"{loss:g}") for loss in ticks),
    )


def accuracy_bars(found: Evaluation) -> tuple[Bar, ...]:
    """Simplest first: what the adapter must beat, then the adapter."""
    scores = (
        ("base", found.base, "base"),
        ("base, calibrated", found.base_calibrated, "base"),
        ("with the adapter", found.tuned, "tuned"),
    )
    base, calibrated, tuned = (
        Bar(name, 100 * score.accuracy, 100 * score.low, 100 * score.high, kind)
        for name, score, kind in scores
    )
    majority, linear = Bar("majority class", 100 * found.majority), Bar("TF-IDF", 100 * found.tfidf)
    return majority, base, calibrated, linear, tuned


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` before it."""
    parts = (values[max(0, end - window - 1) : end] for end in range(1, len(values) + 1))
    return [sum(part) / len(part) for part in parts]


def log_ticks(values: Sequence[float], smallest: float = 1e-4) -> list[float]:
    """1, 2 and 5 times powers of ten, from at most the least value (or `smallest`) to above the greatest."""
    low, high = max(min(values), smallest), max(max(values), smallest)
    # One power more on either side: log10 rounds 9999.999… up to 4.
    powers = range(math.floor(math.log10(low)) - 1, math.floor(math.log10(high)) + 2)
    marks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    above = next(mark for mark in marks if mark > high)
    below = max(mark for mark in marks if mark <= low)
    return [mark for mark in marks if below <= mark <= above]


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, at steps of 1, 2 or 5 times a power of ten."""
    rough = max(high - low, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(index * step, 12) for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + " L".join(f"{x:.2f},{y:.2f}" for x, y in zip(xs, ys, strict=True))
