"""Places on the page are where the numbers are."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from run_folders import EVALUATION, SCORE, step

from seektune.reports.plots import accuracy_bars, log_ticks, loss_curve, nice_ticks, running_mean
from seektune.types import Evaluation, Score, StepMetrics


def curve(*losses: float, eval_loss: float | None = None):
    rows = [step(number, loss) for number, loss in enumerate(losses, start=1)]
    rows[-1]["eval_loss"] = eval_loss
    return loss_curve(
        [StepMetrics(**{k: v for k, v in row.items() if k != "tokens_per_second"}) for row in rows]
    )


def test_the_curve_runs_from_the_left_to_the_right_edge_on_a_logarithmic_axis() -> None:
    drawn = curve(0.9, 0.1)
    assert [tick.label for tick in drawn.y_ticks] == ["0.1", "0.2", "0.5", "1"]
    assert [tick.place for tick in drawn.y_ticks] == pytest.approx([100, 69.9, 30.1, 0], abs=0.01)
    assert drawn.every_step == "M0.00,4.58 L100.00,100.00"


def test_a_held_out_loss_is_a_point_at_its_step() -> None:
    ((x, y, says),) = curve(1.0, 0.5, 0.2, eval_loss=0.5).evaluated
    assert x == 100
    assert 0 < y < 100
    assert says == "held-out loss 0.500, step 3"


def test_one_step_is_no_curve() -> None:
    assert curve(1.0) is None
    assert loss_curve([]) is None


@given(st.lists(st.floats(0, 1e4), min_size=2, max_size=30))
def test_every_loss_is_drawn_within_the_frame(losses: list[float]) -> None:
    drawn = curve(*losses)
    points = drawn.every_step.removeprefix("M").split(" L")
    assert len(points) == len(losses)
    assert all(0 <= float(value) <= 100 for point in points for value in point.split(","))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_enclose_their_range(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= low + span - 1e-6 * span
    assert 3 <= len(ticks) <= 7


@given(st.lists(st.floats(1e-4, 1e6), min_size=1, max_size=9))
@example([9999.999999999998])
def test_logarithmic_ticks_enclose_the_values(values: list[float]) -> None:
    ticks = log_ticks(values)
    assert ticks[0] <= min(values)
    assert ticks[-1] > max(values)


def test_the_running_mean_looks_back_only() -> None:
    assert running_mean([4.0, 2.0, 0.0, 0.0], window=1) == [4.0, 3.0, 1.0, 0.0]


def test_bars_stand_in_the_order_of_what_must_be_beaten_with_intervals_where_they_exist() -> None:
    scores = {key: Score(**EVALUATION[key]) for key in ("base_calibrated", "tuned")}
    found = Evaluation(**{**EVALUATION, **scores, "base": Score(**SCORE)})
    bars = accuracy_bars(found)
    assert [bar.name for bar in bars] == [
        "majority class", "base", "base, calibrated", "TF-IDF", "with the adapter"
    ]  # fmt: skip
    assert [bar.value for bar in bars] == pytest.approx([12.5, 40, 45, 55, 62.5])
    assert [bar.low is None for bar in bars] == [True, False, False, True, False]
    assert (bars[-1].low, bars[-1].high) == pytest.approx((57.7, 67.1))
