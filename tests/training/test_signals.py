from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.training import signals
from seektune.types import RoutingProfile


def noisy(level: float, count: int, sigma: float = 0.2, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [level * math.exp(generator.gauss(0, sigma)) for _ in range(count)]


def test_a_robust_z_is_not_moved_by_outliers_and_has_a_floor() -> None:
    assert signals.robust_z(3.0, [1.0, 1.1, 0.9, 100.0, 1.0], floor=0.1) > 10
    assert signals.robust_z(1.5, [1.0] * 9, floor=0.5) == 1.0


def test_a_spike_stands_out_of_the_noise_of_its_own_run() -> None:
    found = signals.loss_spike([*noisy(1.5, 60), 7.0])
    assert found is not None
    assert found["loss"] == 7.0
    assert found["usual_loss"] == pytest.approx(1.5, rel=0.2)
    assert signals.loss_spike([*noisy(1.5, 60, sigma=0.6), 7.0]) is None  # noisy enough to see that by chance


def test_a_spike_needs_a_history_and_half_a_nat() -> None:
    assert signals.loss_spike([*noisy(1.5, 15), 7.0]) is None
    assert signals.loss_spike([*noisy(0.01, 60), 0.3]) is None  # learnt by heart: 30 times as much is little


@pytest.mark.parametrize("sigma", [0.02, 0.2, 0.6])
def test_noise_falling_by_itself_is_no_spike_and_no_explosion(sigma: float) -> None:
    noise = noisy(1.0, 1500, sigma)
    losses = [5 * math.exp(-step / 300) * factor + 0.1 for step, factor in enumerate(noise)]
    for step in range(len(losses)):
        assert signals.loss_spike(losses[: step + 1][-51:]) is None
        assert signals.gradient_explosion(noise[: step + 1][-51:], [100] * min(step + 1, 51), 1.0) is None


def test_a_gradient_explodes_by_ten_twice_or_by_a_hundred_once() -> None:
    tokens = [100] * 32
    assert signals.gradient_explosion([*[1.0] * 31, 20.0], tokens, 1.0) is None  # clipped once, no harm
    again = signals.gradient_explosion([*[1.0] * 29, 20.0, 3.0, 30.0], tokens, 1.0)
    assert again == {"grad_norm": 30.0, "usual_grad_norm": 1.0, "times": 30.0}
    assert signals.gradient_explosion([*[1.0] * 31, 200.0], tokens, 1.0) is not None
    assert (
        signals.gradient_explosion([*[0.01] * 29, 0.5, 0.01, 0.5], tokens, 1.0) is None
    )  # below the start's
    assert signals.gradient_explosion([1.0, 500.0], [100, 100], 1.0) is None


def test_the_few_tokens_left_of_an_epoch_make_a_noisy_gradient_not_an_explosion() -> None:
    norms, tokens = [0.3] * 32, [8192] * 32
    for index in (27, 29, 31):
        norms[index], tokens[index] = 5.0, 20
    assert signals.gradient_explosion(norms, tokens, 0.3) is None
    assert signals.gradient_explosion(norms, [8192] * 32, 0.3) is not None


def diverged(losses: list[float], norms: list[float], lowest: float = 9.0) -> signals.Evidence | None:
    return signals.divergence(
        losses,
        norms,
        first_losses=losses[:5],
        first_norms=norms[:5],
        lowest=lowest,
        highest_norm=max(norms),
    )


def test_a_loss_that_rises_and_stays_up_has_diverged() -> None:
    norms = [1.0] * 40
    assert diverged([1.0] * 30 + [3.0] * 10, norms, lowest=1.0) == {"loss": 3.0, "lowest_loss": 1.0}
    assert diverged([1.0] * 36 + [3.0] * 4, norms, lowest=1.0) is None
    assert diverged([1.0] * 30 + [1.6] * 10, norms, lowest=1.0) is None
    assert diverged([0.01] * 30 + [0.5] * 10, norms, lowest=0.01) is None  # learnt by heart: little in nats


def test_a_run_that_broke_at_once_is_held_against_its_first_step() -> None:
    losses, norms = [1.2, 5.0, *[4.5] * 18], [0.5, 20.0, *[0.4] * 18]
    found = diverged(losses, norms, lowest=4.5)
    assert found is not None
    assert found["first_loss"] == 1.2
    assert diverged(losses, [0.5] * 20, lowest=4.5) is None  # a first row that was easy by chance


def test_a_gradient_that_blew_up_and_vanished_with_the_loss_still_high_has_saturated() -> None:
    losses, norms = [6.0, 5.0, *[4.2] * 18], [3.0, 30.0, 10.0, *[0.03] * 17]
    assert diverged(losses, norms, lowest=4.2) is not None
    assert diverged([6.0, *[0.4] * 19], [3.0, *[0.03] * 19], lowest=0.4) is None  # learnt, nothing left to do
    assert diverged([5.7, *[2.1] * 19], [3.0, *[0.03] * 19], lowest=2.1) is None  # converged to its floor


def test_a_plateau_is_claimed_only_where_noise_cannot_hide_progress() -> None:
    flat, rates = noisy(3.0, 400, sigma=0.02), [1e-4] * 400
    found = signals.plateau(flat, rates)
    assert found is not None
    assert found["steps"] == 200
    assert signals.plateau(noisy(3.0, 400, sigma=0.5), rates) is None
    falling = [loss * (1 - step / 2000) for step, loss in enumerate(flat)]
    assert signals.plateau(falling, rates) is None
    assert signals.plateau(flat[:150], rates[:150]) is None


def test_the_end_of_a_schedule_and_the_end_of_learning_are_no_plateau() -> None:
    flat = noisy(3.0, 400, sigma=0.02)
    assert signals.plateau(flat, [1e-4 * (1 - step / 400) for step in range(400)]) is None
    assert signals.plateau([6.0] * 5 + noisy(0.5, 395, sigma=0.02), [1e-4] * 400) is None


def test_early_stopping_counts_as_hf_does() -> None:
    assert signals.eval_worse([3.0, 2.0, 2.1, 2.2], patience=3) is None
    found = signals.eval_worse([3.0, 2.0, 2.1, 2.2, 2.0], patience=3)
    assert found == {"eval_loss": 2.0, "best_eval_loss": 2.0, "evaluations_since": 3}
    assert signals.eval_worse([3.0, 2.0, 1.95, 1.96], patience=2, threshold=0.1) is not None
    assert signals.eval_worse([3.0, 2.0, 2.1, 1.9], patience=2) is None


def test_with_a_margin_a_flat_evaluation_is_not_getting_worse() -> None:
    assert signals.eval_worse([2.0, 2.01, 2.02, 2.03], patience=3, margin=0.05) is None
    assert signals.eval_worse([2.0, 2.2, 2.05, 2.3], patience=3, margin=0.05) is None
    assert signals.eval_worse([2.0, 2.2, 2.3, 2.4], patience=3, margin=0.05) is not None


def test_a_group_below_a_thousandth_of_its_rate_is_dead() -> None:
    assert signals.dead_groups({"attention": 0.3, "shared": 0.0, "routed": 5e-4}) == {
        "shared": 0.0,
        "routed": 5e-4,
    }
    assert signals.dead_groups({"attention": 0.002}) is None


def profile(**layers: tuple[int, ...]) -> RoutingProfile:
    counts = {int(name[1:]): load for name, load in layers.items()}
    return RoutingProfile(counts, {layer: tuple(map(float, load)) for layer, load in counts.items()}, 200)


def test_the_layer_that_lost_most_of_its_experts_has_collapsed() -> None:
    base = profile(l1=(50,) * 8, l2=(50,) * 8, l3=(200, 100, 50, 50, 0, 0, 0, 0))
    now = profile(l1=(60, 40) * 4, l2=(380, 10, 10, 0, 0, 0, 0, 0), l3=(180, 120, 60, 40, 0, 0, 0, 0))
    found = signals.routing_collapse(base, now)
    assert found is not None
    assert (found["layer"], found["top_share"], found["base_top_share"]) == (2, 0.95, 0.125)
    assert found["base_effective_experts"] == pytest.approx(8)
    assert signals.routing_collapse(base, base) is None


def test_tokens_that_all_choose_alike_have_collapsed_however_few_experts_there_are() -> None:
    base = profile(l1=(100, 90, 80, 70, 60))
    assert signals.routing_collapse(base, profile(l1=(200, 200, 0, 0, 0))) is not None
    assert signals.routing_collapse(base, profile(l1=(190, 150, 30, 20, 10))) is None


def test_a_few_tokens_are_too_few_to_judge_a_load() -> None:
    assert signals.routing_collapse(profile(l1=(5,) * 8), profile(l1=(40, 0, 0, 0, 0, 0, 0, 0))) is None


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=16).filter(any))
def test_effective_experts_lie_between_one_and_all(counts: list[int]) -> None:
    assert 1 - 1e-9 <= signals.effective_experts(counts) <= len(counts) + 1e-9


def test_a_scale_that_finds_its_level_is_not_falling() -> None:
    start = [65536.0 / 2**step for step in range(7)]
    assert signals.loss_scale_falling([*start, *[1024.0] * 30]) is None
    assert signals.loss_scale_falling([1024.0, 512.0, 1024.0] * 20) is None
    found = signals.loss_scale_falling([65536.0 / 2**step for step in range(12)])
    assert found == {"scale": 32.0, "scale_before": 65536.0, "halvings": 11}


def test_a_row_is_long_against_the_spread_of_its_data() -> None:
    usual = [round(length) for length in noisy(40, 200)]
    found = signals.long_row([41, 38, 800], usual)
    assert found == {"tokens": 800, "usual_tokens": pytest.approx(40, rel=0.1), "share": 800 / 879}
    assert signals.long_row([41, 38, 800], [round(x) for x in noisy(40, 200, sigma=1.0)]) is None
    assert signals.long_row([800] * 4, usual) is None  # one of many of its kind: no share of half
    assert signals.long_row([800], usual[:10]) is None


@pytest.mark.parametrize("detect", [signals.loss_spike, signals.loss_scale_falling])
def test_a_run_without_history_is_healthy(detect: Callable[[list[float]], object]) -> None:
    assert detect([1.0]) is None
