"""Every sample in exactly one row, no row over its limit, few rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.packing import Plan, best_fit, in_order, packed, shuffled
from seektune.data.reading import read_records

lengths_of = st.lists(st.integers(1, 50), max_size=80)


def rows_of(plan: Plan) -> list[list[int]]:
    return [plan.row(index) for index in range(plan.rows)]


@given(st.permutations(range(17)), st.integers(1, 20))
def test_rows_in_order_are_the_order_cut_into_pieces(order: list[int], size: int) -> None:
    rows = rows_of(in_order(np.array(order), size))
    assert [index for row in rows for index in row] == order
    assert all(len(row) == size for row in rows[:-1])
    assert not rows or 0 < len(rows[-1]) <= size


@given(lengths_of, st.integers(50, 120), st.randoms())
def test_best_fit_places_every_sample_once_and_within_the_budget(
    lengths: list[int], budget: int, generator: random.Random
) -> None:
    order = list(range(len(lengths)))
    generator.shuffle(order)
    rows = best_fit(order, lengths, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= budget for row in rows)


@given(lengths_of, st.integers(50, 120))
def test_best_fit_is_what_a_search_of_all_rows_would_choose(lengths: list[int], budget: int) -> None:
    naive: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = [row for row in naive if sum(lengths[i] for i in row) + lengths[index] <= budget]
        if fitting:
            max(fitting, key=lambda row: sum(lengths[i] for i in row)).append(index)
        else:
            naive.append([index])
    rows = best_fit(range(len(lengths)), lengths, budget)
    fills, expected = (sorted(sum(lengths[i] for i in row) for row in found) for found in (rows, naive))
    assert fills == expected


@given(lengths_of, st.integers(50, 120), st.randoms())
def test_the_order_never_changes_how_many_rows_there_are(
    lengths: list[int], budget: int, generator: random.Random
) -> None:
    order = list(range(len(lengths)))
    expected = len(best_fit(order, lengths, budget))
    generator.shuffle(order)
    assert len(best_fit(order, lengths, budget)) == expected


@given(lengths_of, st.integers(50, 120), st.integers(1, 90), st.integers(0, 9))
def test_a_packed_plan_places_every_sample_once_whatever_the_window(
    lengths: list[int], budget: int, window: int, seed: int
) -> None:
    ranks = [np.random.default_rng(seed + i).permutation(len(lengths)) for i in range(2)]
    plans = [packed(rank, np.array(lengths, np.int64), budget, window) for rank in ranks]
    assert plans[0].rows == plans[1].rows
    for row in rows_of(plans[0]):
        assert 0 < sum(lengths[index] for index in row) <= budget
        assert max(row) // window == min(row) // window
    assert sorted(plans[0].members.tolist()) == list(range(len(lengths)))


@given(lengths_of, st.integers(0, 9))
def test_shuffling_a_plan_keeps_its_rows(lengths: list[int], seed: int) -> None:
    plan = packed(np.arange(len(lengths)), np.array(lengths, np.int64), 60)
    mixed = rows_of(shuffled(plan, np.random.default_rng(seed)))
    assert sorted(mixed) == sorted(rows_of(plan))


def test_short_samples_fill_the_holes_that_long_ones_leave() -> None:
    rows = best_fit(range(6), [2, 4, 2, 4, 2, 4], budget=6)
    assert sorted(map(sorted, rows)) == [[0, 5], [1, 4], [2, 3]]


def test_medical_questions_leave_little_room(real_data: Path) -> None:
    lengths = [len(row.messages[0].content) // 4 for row in read_records(real_data / "medqa/dev_5opt.jsonl")]
    rows = best_fit(range(len(lengths)), lengths, budget=2048)
    assert sum(lengths) / (2048 * len(rows)) > 0.97
