"""The comparison with the target: silent on halves of one set, loud and specific on different ones."""

from __future__ import annotations

import json
import random
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.profile.match import AT_LEAST, Match, area_under_curve, match

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the project")
FILES = {
    "cmexam": "cmexam/practice_train.jsonl",
    "medmcqa": "medmcqa/validation.jsonl",
    "sst2": "sst2/train.jsonl",
    "esft_intent": "esft_intent/train.jsonl",
}


@cache
def texts(name: str) -> tuple[str, ...]:
    """What each record asks; of the intents the utterance alone, without the instruction around it."""
    records = map(json.loads, (SHARED / FILES[name]).read_text(encoding="utf-8").splitlines())
    if name == "esft_intent":
        turns = (record["messages"][0]["content"] for record in records)
        return tuple(turn.partition("：")[2].replace("答案：", "").strip() for turn in turns)
    return tuple(record["text" if name == "sst2" else "question"] for record in records)


def halves(name: str, seed: int) -> tuple[list[str], list[str]]:
    shuffled = random.Random(seed).sample(texts(name), len(texts(name)))
    middle = len(shuffled) // 2
    return shuffled[:middle], shuffled[middle:]


def words(found: Match, side: int) -> set[str]:
    return {term.text for term in found.typical[side]}


@needs_shared
@pytest.mark.parametrize("name", ["cmexam", "medmcqa", "sst2"])
def test_two_halves_of_one_set_cannot_be_told_apart(name: str) -> None:
    found = match(*halves(name, seed=0))
    assert not found.differs
    assert "cannot be told apart" in found.verdict


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("name", ["cmexam", "medmcqa", "sst2"])
def test_twenty_halvings_raise_at_most_one_alarm(name: str) -> None:
    assert sum(match(*halves(name, seed), seed).differs for seed in range(20)) <= 1


@needs_shared
def test_small_samples_of_one_set_raise_few_alarms() -> None:
    alarms = 0
    for seed in range(40):
        shuffled = random.Random(seed).sample(texts("cmexam"), 80)
        alarms += match(shuffled[:40], shuffled[40:], seed).differs
    assert alarms <= 3


@needs_shared
def test_exam_questions_and_intents_both_chinese_are_told_apart_and_it_is_said_how() -> None:
    found = match(texts("cmexam"), texts("esft_intent"))
    assert found.differs
    assert found.area is not None
    assert found.area.low > 0.95
    assert {"患者", "治疗"} <= words(found, 0)
    assert {"播放", "帮我"} <= words(found, 1)
    assert "almost entirely" in found.verdict
    assert "播放" in found.verdict


@needs_shared
def test_medical_questions_and_film_reviews_are_told_apart_within_twenty_seconds() -> None:
    started = time.process_time()
    found = match(texts("medmcqa"), texts("sst2"))
    assert time.process_time() - started < 20
    assert found.differs
    assert "patient" in words(found, 0)
    assert {"movie", "film"} <= words(found, 1)
    assert found.lengths is not None
    assert found.lengths[0][1] < found.lengths[1][1]
    assert "Lengths differ as well" in found.verdict


@needs_shared
def test_forty_prompts_are_enough_for_a_large_difference() -> None:
    assert match(texts("cmexam"), texts("esft_intent")[:40]).differs
    assert match(texts("medmcqa"), texts("sst2")[:40]).differs


def numbered(start: str, count: int) -> list[str]:
    return [f"{start} number {n} of {count} in all" for n in range(count)]


def test_the_same_seed_gives_the_same_finding() -> None:
    sides = numbered("A train of thought", 60), numbered("What is the target", 50)
    assert match(*sides, seed=3) == match(*sides, seed=3)


def test_neighbours_name_the_row_and_the_closest_target() -> None:
    train = [*numbered("quantities of tea", 30), "fever and cough since monday"]
    target = [*numbered("fever since day", 30), "fever and cough since monday evening"]
    found = match(train, target, names=[f"a.jsonl:{n}" for n in range(1, 32)])
    nearest = found.nearest[0]
    assert (nearest.row, nearest.target) == ("a.jsonl:31", target[-1])
    assert nearest.similarity > found.farthest[0].similarity
    assert found.farthest[0].text.startswith("quantities")


def test_fewer_than_twenty_distinct_texts_are_said_to_be_too_few() -> None:
    found = match(numbered("a", 100), ["same"] * 100)
    assert found.area is None
    assert not found.differs
    assert found.verdict.startswith("Too few texts to compare: 100 distinct training and 1 distinct target")


def test_identical_texts_on_both_sides_are_counted_and_no_difference() -> None:
    both = numbered("the same", 50)
    found = match(both, both)
    assert (found.shared, found.texts, found.differs) == (50, (50, 50), False)


def test_length_alone_is_compared_too() -> None:
    found = match(["ab" * n for n in range(50, 80)], ["ab" * n for n in range(1, 31)])
    assert found.length_area is not None
    assert found.length_area.value == 0.0


def test_the_finding_is_plain_data() -> None:
    found = match(numbered("one", 30), numbered("two", 40)).to_json()
    assert json.loads(json.dumps(found)) is not None
    assert found["texts"] == {"train": 30, "target": 40}
    assert set(found["typical"]) == set(found["lengths"]) == {"train", "target"}
    assert match([], []).to_json()["lengths"] is None


@given(st.integers(2, 60), st.floats(0, 3), st.integers(0, 99))
def test_an_area_lies_within_its_interval_and_is_the_share_of_ordered_pairs(
    size: int, shift: float, seed: int
) -> None:
    scores = np.random.default_rng(seed).normal(size=2 * size).round(1)
    scores[size:] += shift
    area = area_under_curve(scores, size)
    pairs = [(b > a) + (b == a) / 2 for a in scores[:size] for b in scores[size:]]
    assert area.value == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= area.low <= area.value <= area.high <= 1


def test_a_perfect_separation_of_few_has_a_wide_interval() -> None:
    few = area_under_curve(np.arange(40.0), 20)
    many = area_under_curve(np.arange(4000.0), 2000)
    assert few.value == many.value == 1
    assert few.low < 0.95 < 0.99 < many.low


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=50, max_size=60, unique=True))
def test_any_texts_can_be_compared(found: list[str]) -> None:
    result = match(found[:25], found[25:])
    assert result.verdict
    assert (result.area is None) == (min(result.texts) < AT_LEAST)
