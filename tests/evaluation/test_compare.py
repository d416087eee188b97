"""Intervals and tests, against published numbers and against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from seektune.evaluation.compare import difference, mcnemar, wilson
from seektune.types import Score

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


@given(st.integers(1, 3000), st.data())
def test_the_interval_is_scipys_wilson_interval(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    score = wilson(correct, n)
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert math.isclose(score.low, expected.low, abs_tol=1e-9)
    assert math.isclose(score.high, expected.high, abs_tol=1e-9)
    assert 0 <= score.low <= score.accuracy + 1e-12
    assert score.accuracy - 1e-12 <= score.high <= 1


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_an_impossible_count_is_refused(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(correct, n)


@given(outcomes)
def test_the_paired_p_value_is_the_exact_sign_test_of_the_disagreements(
    pairs: list[tuple[bool, bool]],
) -> None:
    base, tuned = zip(*pairs, strict=True)
    p = mcnemar(base, tuned)
    lost, won = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert math.isclose(p, expected, rel_tol=1e-9)
    assert p == mcnemar(tuned, base)


def test_many_disagreements_do_not_overflow() -> None:
    assert mcnemar([False] * 1200, [True] * 1200) == 0.0
    assert mcnemar([True, False] * 600, [False, True] * 600) == 1.0


def test_models_must_have_answered_the_same_rows() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, False], [True])


def test_the_interval_of_a_difference_is_newcombes_published_one() -> None:
    low, high = difference(wilson(56, 70), wilson(48, 80))  # Newcombe 1998, table II, method 10
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_a_difference_turns_its_sign_with_the_sides(n: int, m: int, data: st.DataObject) -> None:
    one, other = wilson(data.draw(st.integers(0, n)), n), wilson(data.draw(st.integers(0, m)), m)
    low, high = difference(one, other)
    assert difference(other, one) == pytest.approx((-high, -low))
    assert low <= one.accuracy - other.accuracy <= high


def test_a_score_holds_fractions() -> None:
    assert wilson(0, 10) == Score(0.0, 0.0, pytest.approx(0.27753, abs=1e-5))
