"""Whether the run was long enough, or too long, by its curve on unseen rows."""

from __future__ import annotations

from seektune.diagnosis.cause import Cause
from seektune.diagnosis.curve import Curve, Forecast
from seektune.training.causes import number

WORTH, AT_LEAST = 0.15, 0.05
"""Shares of its loss that a longer run must gain to be worth it: likely, and at the interval's lower end."""

WORSE, WORSE_NATS = 0.1, 0.02
"""Share, and nats, by which the last evaluation exceeds the best point of a run learnt by heart."""


def length_cause(curve: Curve) -> Cause | None:
    """The length as a cause: overfitting where the held-out loss rose, else too few epochs."""
    return overfitting(curve) or too_short(curve)


def overfitting(curve: Curve) -> Cause | None:
    """The loss on unseen rows is well above where it once was.

    One evaluation at the end is enough: the first epoch's training loss says where it had been.
    """
    evaluated = [point for point in curve.points if point.evaluated]
    if not evaluated or len(curve.points) < 2:
        return None
    last, best = evaluated[-1], min(curve.points, key=lambda point: point.loss)
    rise = last.loss - best.loss
    if rise < WORSE * best.loss or rise < WORSE_NATS:
        return None
    epochs = number(max(best.epochs, 0.1))
    sentence = (
        f"The loss on unseen rows was {best.loss:.3g} after {best.epochs:.2g} epochs and is {last.loss:.3g} "
        f"after {last.epochs:.2g}: since then the run learns its rows by heart."
    )
    evidence = {"best": best.loss, "best_epochs": best.epochs, "last": last.loss, "epochs": last.epochs}
    change = (f"training.num_train_epochs: {epochs}", "training.health.early_stopping_patience: 2")
    return Cause("length", "overfitting", rise / best.loss, evidence, sentence, change)


def too_short(curve: Curve) -> Cause | None:
    """A longer run is likely to gain enough, and sure to gain something."""
    worth = [forecast for forecast in curve.forecasts if helps(forecast)]
    if not worth:
        return None
    chosen = worth[0]
    sentence = (
        f"The loss on unseen rows is still falling after {curve.epochs:.2g} epochs: {chosen.epochs:g} would "
        f"lower it by {chosen.gain:.0%} (90 % interval {chosen.low:.0%} to {chosen.high:.0%})."
    )
    evidence = {
        "epochs": curve.epochs,
        "loss": curve.loss,
        "gain": chosen.gain,
        "low": chosen.low,
        "high": chosen.high,
    }
    change = (f"training.num_train_epochs: {chosen.epochs:g}", "training.max_steps: -1")
    return Cause("length", "too_few_epochs", chosen.gain, evidence, sentence, change)


def helps(forecast: Forecast) -> bool:
    """Whether the longer run is worth it."""
    return forecast.gain >= WORTH and forecast.low >= AT_LEAST


def outlook(curve: Curve) -> str:
    """The answer to "would more epochs help?" in a sentence, also where there is none."""
    if not curve.forecasts:
        return (
            f"Cannot tell whether more epochs would help: {len(curve.points)} points of loss on unseen rows "
            "are too few to fit a curve; set training.eval_steps."
        )
    said = []
    for forecast in curve.forecasts:
        interval = f"{forecast.low:.0%} to {forecast.high:.0%}"
        sure = helps(forecast) or forecast.high < WORTH
        said.append(
            f"{forecast.epochs:g} epochs {forecast.gain:.0%} ({interval}{'' if sure else ', cannot tell'})"
        )
    return (
        f"Predicted fall of the loss on unseen rows from {curve.epochs:.2g} epochs on: "
        + ", ".join(said)
        + "."
    )
