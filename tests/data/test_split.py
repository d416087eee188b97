"""Held-out rows share no question with the training rows."""

from __future__ import annotations

from itertools import compress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.split import held_out, question_key, question_of
from seektune.errors import DataError
from seektune.types import Example, Message


def split(rows: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, held out)."""
    keys = np.array([question_key(row, seed) for row in rows], np.uint64)
    held = held_out(keys, fraction).tolist()
    return [row for row, out in zip(rows, held, strict=True) if not out], list(compress(rows, held))


def asked(question: str, row: int = 0, options: tuple[str, ...] = ()) -> Example:
    text = "\n".join([question, *options])
    return Example((Message("user", text), Message("assistant", "x")), f"rows:{row}", options, None)


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(),
)
def test_every_row_lands_on_one_side_and_no_question_on_both(
    questions: list[str], fraction: float, seed: int
) -> None:
    rows = [asked(question, row) for row, question in enumerate(questions)]
    if len(set(questions)) == 1:
        with pytest.raises(DataError, match="1 different questions"):
            split(rows, fraction, seed)
        return
    train, held = split(rows, fraction, seed)
    assert train
    assert sorted(train + held, key=rows.index) == rows
    assert not {question_of(row) for row in train} & {question_of(row) for row in held}
    largest = max(map(questions.count, questions))
    wanted = max(1, round(fraction * len(rows)))
    assert len(held) < wanted + largest
    assert len(held) >= wanted or len({question_of(row) for row in train}) == 1
    assert train == sorted(train, key=rows.index)


@given(st.permutations([asked(f"question {row}", row) for row in range(20)]))
def test_the_choice_does_not_depend_on_the_order_of_the_rows(rows: list[Example]) -> None:
    _, held = split(rows, 0.3, seed=5)
    _, expected = split(sorted(rows, key=lambda row: row.row_id), 0.3, seed=5)
    assert set(held) == set(expected)
    assert len(held) == 6


def test_another_seed_holds_out_other_rows() -> None:
    rows = [asked(f"question {row}", row) for row in range(40)]
    assert split(rows, 0.5, seed=0)[1] != split(rows, 0.5, seed=1)[1]


@pytest.mark.parametrize("other", ["What is  ATP?", "what is atp", "What is_ATP ?!"])
def test_case_punctuation_and_spacing_do_not_make_a_question_new(other: str) -> None:
    assert question_of(asked("What is ATP?")) == question_of(asked(other))
    assert question_of(asked("What is GTP?")) != question_of(asked(other))


def test_the_same_question_with_other_options_is_the_same_question() -> None:
    options = ("A. energy", "B. a\nfuel"), ("A. a fuel", "B. energy")
    assert question_of(asked("What is ATP?", options=options[0])) == question_of(
        asked("What is ATP?", options=options[1])
    )


def test_a_share_too_large_for_the_questions_is_refused() -> None:
    with pytest.raises(DataError, match=r"cannot hold out 0.5 of 3 rows with 1 different questions"):
        split([asked("same"), asked("Same?"), asked("same!")], 0.5, seed=0)
    with pytest.raises(DataError, match="cannot hold out"):
        split([], 0.5, seed=0)
