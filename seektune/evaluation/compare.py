"""How sure an accuracy is, and whether two models answering the same rows differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

from seektune.types import Score

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(correct: int, n: int) -> Score:
    """Accuracy with its 95 % Wilson score interval: honest near 0 and 1 and on few rows.

    Source: Wilson (1927), doi:10.1080/01621459.1927.10502953.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} correct of {n} rows is no proportion")
    share = correct / n
    shrink = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return Score(share, max(0.0, centre - half), min(1.0, centre + half))


def mcnemar(base_right: Sequence[bool], tuned_right: Sequence[bool]) -> float:
    """Exact two-sided p-value that two models are equally good on the rows they both answered.

    Only rows on which they disagree count; under the null each is a fair coin: p = 2·P(X ≤ fewer).
    """
    pairs = list(zip(base_right, tuned_right, strict=True))
    lost = sum(base and not tuned for base, tuned in pairs)
    won = sum(tuned and not base for base, tuned in pairs)
    tail = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / (1 << (lost + won)))


def difference(one: Score, other: Score) -> tuple[float, float]:
    """95 % interval of `one` − `other`, as if they came from different rows (wider than the paired one).

    Newcombe (1998), method 10: the two Wilson intervals combined.
    """
    delta = one.accuracy - other.accuracy
    down = math.hypot(one.accuracy - one.low, other.high - other.accuracy)
    up = math.hypot(one.high - one.accuracy, other.accuracy - other.low)
    return delta - down, delta + up
