"""Corruptions change one thing, say which, and leave the rest as it was."""

from __future__ import annotations

import difflib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.negatives.corruption import NAMES, corruptions


def made(text: str, name: str, foreign: str = "") -> set[str]:
    """All that a hundred draws make of the text under one name."""
    draws = (corruptions(text, foreign, random.Random(seed)) for seed in range(100))
    return {changed for draw in draws for found, changed in draw if found == name}


def test_a_number_is_changed_to_another_of_the_same_form() -> None:
    assert made("take 5 mg", "number_changed") == {"take 10 mg", "take 50 mg", "take 2 mg", "take 8 mg"}
    assert made("约 40%", "number_changed") == {"约 80%", "约 20%"}
    assert made("pH 7.4", "number_changed") <= {"pH 14.8", "pH 74.0", "pH 3.7", "pH 10.4"}


@pytest.mark.parametrize(
    "text",
    [
        "5-HT",
        "B12 and H2O",
        "BP 120/80",
        "3-5 days",
        "10^9",
        "1,000",
        "see [12]",
        "1. first\n2. second",
        "the 2nd",
        "5~10倍",
    ],
)
def test_names_ranges_references_and_list_numbers_are_left_alone(text: str) -> None:
    assert made(text, "number_changed") == set()


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("It is safe", {"It is not safe"}),
        ("It is not safe", {"It is safe"}),
        ("You cannot stop", {"You can stop"}),
        ("You can stop", {"You cannot stop"}),
        ("It isn't so", {"It is so"}),
        ("可以同服", {"不可以同服"}),
        ("不可以同服", {"可以同服"}),
        ("孕妇不宜使用", {"孕妇宜使用"}),
        ("没有风险", {"有风险"}),
        ("无法治愈", {"可以治愈"}),
    ],
)
def test_a_negation_is_flipped_either_way(text: str, changed: set[str]) -> None:
    assert made(text, "negation_flipped") == changed


@pytest.mark.parametrize(
    "text", ["是否需要", "能不能", "不应期", "no such effect was seen", "有没有", "Aspirin"]
)
def test_what_would_not_be_a_flip_is_left_alone(text: str) -> None:
    assert made(text, "negation_flipped") == set()


def test_a_sentence_is_removed_where_three_remain_to_choose_from() -> None:
    text = "First is it. Then e.g. this one! 最后这样说吧。"
    assert made(text, "sentence_removed") == {
        "Then e.g. this one! 最后这样说吧。",
        "First is it. 最后这样说吧。",
        "First is it. Then e.g. this one!",
    }
    assert made("Only one sentence here. And two.", "sentence_removed") == set()


def test_a_sentence_is_swapped_for_one_of_another_answer() -> None:
    assert made("甲是一种药。\n乙是一种病。", "sentence_swapped", "丙是医院。") == {
        "丙是医院。\n乙是一种病。",
        "甲是一种药。\n丙是医院。",
    }
    assert made("甲是一种药。\n乙是一种病。", "sentence_swapped") == set()


def test_reasoning_and_code_are_kept() -> None:
    text = "<think>\nIt is 5.\n</think>\n\nIt is 5"
    assert all(
        changed.startswith("<think>\nIt is 5.\n</think>\n\n") for changed in made(text, "number_changed")
    )
    assert made("a one.\nb two.\nc three.\n```\nx\n```", "sentence_removed") == set()


@settings(deadline=None)
@given(st.text(st.sampled_from("甲不是能可以。！\n ab.5%3 is not")), st.text(), st.integers(0, 99))
def test_whatever_the_text_each_name_comes_at_most_once_with_a_change(
    text: str, foreign: str, seed: int
) -> None:
    found = list(corruptions(text, foreign, random.Random(seed)))
    assert {name for name, _ in found} <= set(NAMES)
    assert len({name for name, _ in found}) == len(found)
    assert all(changed != text for _, changed in found)
    assert found == list(corruptions(text, foreign, random.Random(seed)))


def test_real_medical_answers_change_in_one_place(real_data: Path) -> None:
    lines = (
        (real_data / "formats" / "mg_medical_sft_1K_format.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()[:200]
    )
    for line in lines:
        text = json.loads(line)["conversations"][-1]["value"]
        for name, changed in corruptions(text, "这是别处的一句话。", random.Random(0)):
            if name in ("number_changed", "negation_flipped"):
                blocks = difflib.SequenceMatcher(None, text, changed, autojunk=False).get_opcodes()
                assert sum(kind != "equal" for kind, *_ in blocks) <= 2
