"""Signs of trouble in plain numbers: each function looks at what a run recorded and returns evidence or None.

The thresholds stand where about a hundred healthy tiny runs (seven architectures, learning rates from 1e-4 to
1e-2, 1 to 64 rows a step, packed or not, with and without dropout) stay well below them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from seektune.types import RoutingProfile

Evidence = dict[str, float]
"""What was measured, by name."""

WINDOW = 50
"""Recent steps that a step is compared with."""

ENOUGH = 10
"""Steps below which there is nothing to compare with."""

FIRST = 5
"""Steps whose median stands for the start of the run."""

SPIKE_WINDOW, SPIKE_Z, SPIKE_RISE, SPIKE_FLOOR = 30, 7.0, 0.5, 0.15
"""A spike: steps it is held against, few so that a falling loss does not hide it; deviations above their
median in log loss (healthy: up to 4), nats, least deviation (15 %)."""

EXPLOSION, EXPLOSION_ONCE, EXPLOSION_SPAN = 10.0, 100.0, 5
"""Times the usual norm, twice within so many steps (healthy: up to 8) or once (healthy: up to 31)."""

RISE, RISE_NATS, OPENING_NATS = 2.0, 0.75, 2.0
"""Divergence: the loss of ten steps over the lowest such loss (healthy: up to 1.7); nats above that, and
above the first step's, which may be low by chance."""

VANISHED, BLOWN_UP, BARELY, SATURATED = 15.0, 3.0, 0.65, 2.5
"""Divergence: how far the gradient fell behind the loss, in a run whose norm once rose so far or whose loss
hardly fell, and the nats a token below which a gradient vanishes because the run has converged."""

PLATEAU_STEPS, PLATEAU_GAIN, STILL_HIGH = 200, 0.01, 0.2
"""A plateau: steps at the least, the gain that can be ruled out, and the share of the first loss left."""

DEAD = 1e-3
"""A dead B moves by less than this share of its learning rate per step (healthy: 0.05 to 1)."""

COLLAPSE, ALL_ALIKE, COLLAPSE_CHOICES = 0.4, 0.1, 20
"""A collapse: effective experts left of the base's (healthy: down to 0.5), or of what lies above the least,
at which all tokens choose alike; choices per expert below which a load is not judged."""

HALVINGS, SCALE_SPAN = 8, 20
"""Loss-scale halvings within so many steps; finding the scale at the start takes six or seven."""

LONG_Z, LONG_TIMES, LONG_SHARE, LONG_FLOOR = 6.0, 8.0, 0.5, 0.25
"""A long row: deviations in log length, times the median length, share of its step, least deviation."""


def robust_z(value: float, history: Sequence[float], floor: float) -> float:
    """(value − median) / (1.4826 · median absolute deviation, at least `floor`)."""
    middle = median(history)
    return (value - middle) / max(1.4826 * median(abs(other - middle) for other in history), floor)


def loss_spike(losses: Sequence[float]) -> Evidence | None:
    """The last loss far above the losses before it, as noisy as those are; compared as logarithms."""
    *before, last = losses[-SPIKE_WINDOW - 1 :]
    if len(before) < 2 * ENOUGH:
        return None
    usual = median(before)
    z = robust_z(_log(last), [_log(loss) for loss in before], SPIKE_FLOOR)
    if z < SPIKE_Z or last - usual < SPIKE_RISE:
        return None
    return {"loss": last, "usual_loss": usual, "z": z}


def gradient_explosion(norms: Sequence[float], tokens: Sequence[int], first_norm: float) -> Evidence | None:
    """The last gradient norm far above the start's and the recent ones, not for the first time unless huge.

    A step of few tokens has a noisier gradient by the root of their number, so it is held against the usual
    norm at that size.
    """
    norms, tokens = norms[-WINDOW:], tokens[-WINDOW:]
    if len(norms) < 3:
        return None
    usual, middle = max(first_norm, median(norms)), median(tokens)
    above = [
        norm / max(usual * max(1.0, math.sqrt(middle / max(count, 1))), 1e-12)
        for norm, count in zip(norms[-EXPLOSION_SPAN:], tokens[-EXPLOSION_SPAN:], strict=True)
    ]
    again = above[-1] >= EXPLOSION and sum(times >= EXPLOSION for times in above) >= 2
    if not again and above[-1] < EXPLOSION_ONCE:
        return None
    return {"grad_norm": norms[-1], "usual_grad_norm": usual, "times": above[-1]}


def divergence(
    losses: Sequence[float],
    norms: Sequence[float],
    *,
    first_losses: Sequence[float],
    first_norms: Sequence[float],
    lowest: float,
    highest_norm: float,
) -> Evidence | None:
    """A run that has lost what it knew; one of three things, all of a much too high learning rate.

    The loss rose from its `lowest` level (the lowest median of ten losses in a row so far) and stays up; or
    it rose from that of the very first step while the gradient blew up; or the gradient blew up and then
    vanished with the loss still high, as in a saturated model that had little to lose.
    """
    if len(losses) < ENOUGH + FIRST:
        return None
    loss, norm = median(losses[-ENOUGH:]), median(norms[-ENOUGH:])
    if loss >= RISE * lowest and loss - lowest >= RISE_NATS:
        return {"loss": loss, "lowest_loss": lowest}
    numbers = {"loss": loss, "grad_norm": norm, "highest_grad_norm": highest_norm}
    opening = first_losses[0]
    rose = loss >= RISE * opening and loss - opening >= OPENING_NATS
    if rose and highest_norm >= EXPLOSION * first_norms[0]:
        return numbers | {"first_loss": opening, "first_grad_norm": first_norms[0]}
    first_loss, first_norm = median(first_losses), median(first_norms)
    behind = first_norm / max(norm, 1e-12) * loss / first_loss
    suspect = highest_norm >= BLOWN_UP * first_norm or loss >= BARELY * first_loss
    if behind < VANISHED or not suspect or loss < SATURATED:
        return None
    return numbers | {"first_loss": first_loss, "first_grad_norm": first_norm}


def plateau(losses: Sequence[float], learning_rates: Sequence[float]) -> Evidence | None:
    """The last half of the run so far gained next to nothing, beyond what noise can hide.

    Only while the learning rate is at least half its peak, and while a fifth of the first loss is left.
    """
    steps = max(PLATEAU_STEPS, len(losses) // 2)
    recent = losses[-steps:]
    if len(recent) < PLATEAU_STEPS or min(learning_rates[-steps:]) < max(learning_rates) / 2:
        return None
    half = len(recent) // 2
    early, late = recent[:half], recent[half:]
    before, after = median(early), median(late)
    noise = 1.4826 * max(median(abs(x - m) for x in part) for part, m in ((early, before), (late, after)))
    gain = (before - after) / before
    error = 1.2533 * noise * math.sqrt(2 / half) / before  # of the difference of two medians
    start = median(losses[:FIRST])
    if gain + 2 * error >= PLATEAU_GAIN or after < STILL_HIGH * start:
        return None
    return {"loss": after, "first_loss": start, "gain": gain, "steps": len(recent)}


def eval_worse(
    losses: Sequence[float], patience: int, threshold: float = 0.0, *, margin: float = 0.0
) -> Evidence | None:
    """The last `patience` evaluation losses none of which improved on the best one before them.

    An improvement is more than `threshold`, as in HF's early stopping. With `margin` above 0 they must all
    be worse than the best by that fraction.
    """
    best, at = math.inf, -1
    for index, loss in enumerate(losses):
        if loss < best - threshold or at < 0:
            best, at = loss, index
    late = losses[at + 1 :]
    if len(late) < patience or any(loss < best * (1 + margin) for loss in late[-patience:] if margin):
        return None
    return {"eval_loss": losses[-1], "best_eval_loss": best, "evaluations_since": len(late)}


def dead_groups(movement: Mapping[str, float]) -> Evidence | None:
    """The groups whose B stands still while they should train: group → its movement.

    `movement` is the root mean square step of B over the learning rate, as `probe.Movement` measures it.
    """
    return {group: moved for group, moved in movement.items() if moved < DEAD} or None


def routing_collapse(base: RoutingProfile, now: RoutingProfile) -> Evidence | None:
    """The layer whose load fell on the fewest experts, measured against the base's on the same rows.

    Effective experts are exp(entropy of the load): E when the load is even, 1 when one expert takes all.
    """
    worst: Evidence | None = None
    for layer, counts in now.counts.items():
        before = base.counts.get(layer)
        if before is None or min(sum(before), sum(counts)) < COLLAPSE_CHOICES * len(counts):
            continue
        effective, had = effective_experts(counts), effective_experts(before)
        least = sum(counts) / max(now.tokens, 1)  # choices per token
        alike = had > 1.5 * least and math.log(effective / least) < ALL_ALIKE * math.log(had / least)
        collapsed = alike or effective < COLLAPSE * had
        if collapsed and (worst is None or effective / had < worst["left"]):
            worst = {
                "layer": layer,
                "effective_experts": effective,
                "base_effective_experts": had,
                "left": effective / had,
                "top_share": max(counts) / sum(counts),
                "base_top_share": max(before) / sum(before),
            }
    return worst


def effective_experts(counts: Sequence[int]) -> float:
    """exp(entropy) of a load."""
    total = sum(counts)
    return math.exp(-sum(n / total * math.log(n / total) for n in counts if n))


def loss_scale_falling(scales: Sequence[float]) -> Evidence | None:
    """A float16 loss scale that was halved again and again within a short time."""
    recent = scales[-SCALE_SPAN - 1 :]
    halvings = sum(after < before for before, after in pairwise(recent))
    if halvings < HALVINGS or recent[-1] >= recent[0]:
        return None
    return {"scale": recent[-1], "scale_before": recent[0], "halvings": halvings}


def long_row(lengths: Sequence[int], usual: Sequence[int]) -> Evidence | None:
    """The longest of a step's rows, where it fills most of the step and is far longer than `usual` rows."""
    if len(usual) < 2 * ENOUGH or not lengths:
        return None
    longest, middle = max(lengths), median(usual)
    share = longest / sum(lengths)
    z = robust_z(math.log(longest), [math.log(length) for length in usual], LONG_FLOOR)
    if z < LONG_Z or longest < LONG_TIMES * middle or share < LONG_SHARE:
        return None
    return {"tokens": longest, "usual_tokens": middle, "share": share}


def _log(loss: float) -> float:
    return math.log(max(loss, 1e-3))
