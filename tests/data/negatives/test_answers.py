"""When two answers may be the same one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.negatives.answers import final, near_equal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Nasal cannula", "nasal  cannula."),
        ("A. Nasal cannula", "C. Nasal cannula"),
        ("5 mg", "5mg"),
        ("1,000 units", "1000 units"),
        ("阿司匹林１００毫克", "阿司匹林100毫克"),
        ("<think>\nhm\n</think>\n\nYes", "yes"),
        ("hemorrhagic stroke", "haemorrhagic stroke"),
        ("Aspirin", "Aspirin and oxygen"),
        ("出血量", "出血量和出血部位"),
    ],
)
def test_these_may_be_the_same(one: str, other: str) -> None:
    assert near_equal(one, other)
    assert near_equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Give 5 mg of drug X twice a day", "Give 50 mg of drug X twice a day"),
        ("0.5 mg", "5 mg"),
        ("−5 mmol/L", "5 mmol/L"),
        ("有关", "无关"),
        ("It is associated with the disease", "It is not associated with the disease"),
        ("male", "female"),
        ("Yes", "No"),
        ("Hypothyroidism", "Hyperthyroidism"),
        ("出血", "长篇说明" * 20 + "出血"),
    ],
)
def test_these_are_not_the_same(one: str, other: str) -> None:
    assert not near_equal(one, other)
    assert not near_equal(other, one)


def test_the_final_answer_leaves_the_reasoning_out() -> None:
    assert final("<think>a</think>\n\nb ") == "b"


@settings(deadline=None)
@given(st.text(), st.text())
def test_likeness_is_symmetric_and_everything_is_like_itself(one: str, other: str) -> None:
    assert near_equal(one, one)
    assert near_equal(one, other) == near_equal(other, one)
