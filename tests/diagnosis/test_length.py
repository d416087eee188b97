"""Too short, too long, or unknown."""

from __future__ import annotations

from seektune.diagnosis.curve import Curve, Forecast, Point
from seektune.diagnosis.length import length_cause, outlook

FALLING = tuple(Point(0.1 * n, 2 / n, False) for n in range(1, 11))


def test_a_loss_that_rose_since_its_best_is_overfitting_with_the_epochs_of_the_best() -> None:
    found = length_cause(Curve((*FALLING, Point(2, 0.15, True), Point(9, 0.6, True)), 9.0))
    assert found is not None
    assert found.kind == "overfitting"
    assert "training.num_train_epochs: 2" in found.change


def test_one_evaluation_at_the_end_is_enough_to_see_overfitting() -> None:
    found = length_cause(Curve((*FALLING, Point(30, 0.9, True)), 30.0))
    assert found is not None
    assert found.kind == "overfitting"


def test_a_sure_gain_is_too_few_epochs_and_an_unsure_one_is_not() -> None:
    sure, unsure = Forecast(5, 0.2, 0.3, 0.4), Forecast(10, 0.01, 0.3, 0.5)
    found = length_cause(Curve(FALLING, 1.0, 0.2, (sure, unsure)))
    assert found is not None
    assert (found.kind, found.change[0]) == ("too_few_epochs", "training.num_train_epochs: 5")
    assert length_cause(Curve(FALLING, 1.0, 0.2, (unsure,))) is None


def test_the_outlook_says_when_it_cannot_tell() -> None:
    assert "set training.eval_steps" in outlook(Curve((), 1.0))
    said = outlook(Curve(FALLING, 1.0, 0.2, (Forecast(5, 0.0, 0.01, 0.02), Forecast(10, 0.01, 0.3, 0.5))))
    assert "5 epochs 1% (0% to 2%)" in said
    assert "10 epochs 30% (1% to 50%, cannot tell)" in said
