"""Answers out of line."""

from __future__ import annotations

import random

import pytest

from seektune.diagnosis.labels import Judged, by_surprise, label_cause, suspects


def judged(surprises: list[float], closed: bool = True) -> list[Judged]:
    return [Judged(f"rows.jsonl:{n}", value, "a", "b", closed) for n, value in enumerate(surprises)]


def normal(count: int, middle: float, spread: float, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(middle, spread) for _ in range(count)]


@pytest.mark.parametrize("closed", [True, False])
def test_planted_outliers_are_found_and_are_a_cause(closed: bool) -> None:
    rows = judged([*normal(80, -4 if closed else 1, 0.3), *normal(20, 4, 0.3)], closed)
    found = suspects(rows)
    assert {int(row.row.rpartition(":")[2]) for row in found} == set(range(80, 100))
    cause = label_cause([rows])
    assert cause is not None
    assert cause.evidence["share"] == 0.2
    assert cause.rows[0]["preferred"] == "b"


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_a_task_that_is_merely_hard_is_no_cause(spread: float) -> None:
    assert label_cause([judged(normal(400, -1, spread))]) is None


def test_a_row_whose_given_answer_is_preferred_is_never_suspicious() -> None:
    assert suspects(judged([-9.0] * 50 + [-0.1])) == ()


def test_held_out_rows_are_their_own_yardstick_where_training_rows_are_known_by_heart() -> None:
    by_heart, held_out = judged([-8.0] * 400), judged([*normal(80, -4, 0.3), *normal(20, 4, 0.3)])
    assert label_cause([by_heart, held_out]) is not None
    assert label_cause([by_heart, []]) is None


def test_what_is_not_finite_is_the_most_surprising() -> None:
    rows = judged([1.0, float("nan"), 2.0])
    assert by_surprise(rows)[0].row == "rows.jsonl:1"
    assert rows[0].to_json()["given"] == "a"
