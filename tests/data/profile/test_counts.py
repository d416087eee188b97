"""The profile counts what is there, in memory that does not grow with the rows."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.profile.counts import EDGES, MAX_SAMPLE, Commonest, Profile, prompt_text
from seektune.types import Example, Message, Pair, Row

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the project")


def asked(question: str, answer: str = "yes", **fields: Any) -> Example:
    return Example((Message("user", question), Message("assistant", answer)), "a.jsonl:1", **fields)


def closed(question: str, options: tuple[str, ...], right: int) -> Example:
    return replace(asked(question, options[right]), options=options, answer=right)


def profile_of(*rows: Row, tokens: int = 10) -> dict[str, Any]:
    profile = Profile()
    for row in rows:
        profile.add(row, tokens, trained=tokens // 2)
    return json.loads(json.dumps(profile.to_json()))


def test_kinds_roles_and_turns_are_counted() -> None:
    talk = Example(
        (
            Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"),
            Message("user", "c"), Message("assistant", "<think>\nhm\n</think>\n\nd"),
        ),
        "a:1",
        tools="[]",
    )  # fmt: skip
    shown = asked("<image>what?", images=("x.png",))
    pair = Pair((Message("user", "q"),), Message("assistant", "good"), Message("assistant", "bad"), "a:2")
    judged = Pair((Message("user", "q"),), None, Message("assistant", "bad"), "a:3")
    found = profile_of(talk, shown, pair, judged, closed("q", ("x", "y"), 0))
    assert found["rows"] == 5
    assert found["kinds"] == {
        "conversation": 2, "preference pair": 1, "judged answer": 1, "closed question": 1
    }  # fmt: skip
    assert found["roles"] == {"assistant": 7, "user": 6, "system": 1}
    assert found["turns"] == {"1": 4, "2": 1}
    assert found["with"] == {"system prompt": 1, "tools": 1, "reasoning": 1, "images": 1}


def test_an_empty_profile_is_plain_data_too() -> None:
    found = profile_of()
    assert found["rows"] == 0
    assert found["tokens"]["histogram"] == {"edges": [], "counts": []}


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=30))
def test_every_row_is_in_the_histogram_between_its_edges(sizes: list[int]) -> None:
    profile = Profile()
    for size in sizes:
        profile.add(asked("q"), size)
    drawn = profile.to_json()["tokens"]["histogram"]
    edges, counts = drawn["edges"], drawn["counts"]
    assert len(edges) == len(counts) + 1
    assert sum(counts) == len(sizes)
    inside = [size for size in sizes if 1 <= size < EDGES[-1]]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if low > 1 and high < EDGES[-1]:
            assert count == sum(low <= size < high for size in inside)


def test_the_share_of_trained_tokens_is_over_all_tokens() -> None:
    profile = Profile()
    profile.add(asked("q"), 30, trained=10)
    profile.add(asked("q"), 10, trained=0)
    found = profile.to_json()["tokens"]
    assert (found["total"], found["trained"], found["trained_share"]) == (40, 10, 0.25)


def test_options_that_rows_share_are_labels_with_their_balance() -> None:
    labels = ("no", "yes", "maybe")
    rows = [closed(f"question {n}", labels, 0 if n < 15 else 1) for n in range(20)]
    found = profile_of(*rows)
    assert found["labels"] == [
        {"counts": {"no": 15, "yes": 5, "maybe": 0}, "commonest_share": 0.75, "imbalance": None}
    ]
    assert found["positions"] == []


def test_a_classification_with_one_label_is_shown_as_such() -> None:
    found = profile_of(*[closed(f"question {n}", ("a", "b"), 0) for n in range(12)])
    assert found["labels"][0]["commonest_share"] == 1.0


def test_a_place_the_right_answer_favours_is_called_out() -> None:
    own = [tuple(f"{n} {letter}" for letter in "abcd") for n in range(400)]
    even = profile_of(*[closed("q", options, n % 4) for n, options in enumerate(own)])
    assert even["positions"] == [{"options": 4, "counts": [100, 100, 100, 100], "favoured": False}]
    first = profile_of(*[closed("q", options, n % 3 and n % 4) for n, options in enumerate(own)])
    assert first["positions"][0]["favoured"]
    assert first["labels"] == []


def test_one_question_repeated_is_no_classification() -> None:
    own = [closed(f"q {n}", (f"{n} a", f"{n} b"), n % 2) for n in range(40)]
    assert profile_of(*own, *[own[0]] * 12)["labels"] == []


def test_the_commonest_openings_and_answers_are_named() -> None:
    english = [asked("Please answer this question: why " + word, "No idea.") for word in ("a", "b", "c")]
    chinese = [asked(f"请回答下面的问题：{word}", "<think>\n想\n</think>\n\n不知道") for word in "甲乙"]
    found = profile_of(*english, *chinese, asked("once"))
    assert found["openings"] == [
        {"text": "Please answer this question:", "count": 3},
        {"text": "请回答下面的问题", "count": 2},
    ]
    assert found["answers"] == [{"text": "No idea.", "count": 3}, {"text": "不知道", "count": 2}]


def test_languages_come_from_a_sample() -> None:
    rows = [asked("这个病人应该用什么药？患者男性。", "青霉素类药物")] * 3
    rows += [asked("Which of the following is the cause of this?", "It is the second one.")]
    assert profile_of(*rows)["languages"] == {"zh": 0.75, "en": 0.25}


def test_the_sample_is_bounded_uniform_and_the_same_for_the_same_seed() -> None:
    def sample(seed: int) -> list[tuple[str, str, str]]:
        profile = Profile(seed)
        for n in range(3 * MAX_SAMPLE):
            profile.add(Example((Message("user", f"{n}"),), f"a:{n}"), 1)
        return profile.sample

    found = sample(0)
    assert found == sample(0) != sample(1)
    assert len(found) == len(set(found)) == MAX_SAMPLE
    from_each_third = [sum(int(text) // MAX_SAMPLE == third for _, text, _ in found) for third in range(3)]
    assert min(from_each_third) > 550  # 667 expected, 17 a standard deviation


def test_counts_of_common_keys_survive_a_flood_of_rare_ones() -> None:
    counted = Commonest(capacity=100)
    for n in range(5000):
        counted.add("common")
        counted.add(n)
    assert counted.top() == [{"text": "common", "count": 5000}]
    assert not counted.exact


def test_memory_is_flat() -> None:
    profile = Profile()

    def feed(rows: int, first: int) -> None:
        for n in range(first, first + rows):
            profile.add(closed(f"{n} is a question", (f"{n} a", f"{n} b"), 0), n % 900)

    feed(25_000, 0)
    tracemalloc.start()
    feed(25_000, 25_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 8e6


def test_what_is_asked_is_the_user_turns_or_the_plain_text() -> None:
    talk = Example(
        (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")),
        "a:1",
    )
    assert prompt_text(talk) == "a\nc"
    assert prompt_text(Example((Message("assistant", "plain"),), "a:1")) == "plain"


@needs_shared
def test_the_first_option_of_medmcqa_is_favoured() -> None:
    profile = Profile()
    for line in (SHARED / "medmcqa" / "validation.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        options = tuple(record["options"].values())
        profile.add(
            closed(record["question"], options, list(record["options"]).index(record["answer_idx"])), 1
        )
    found = profile.to_json()
    four = next(places for places in found["positions"] if places["options"] == 4)
    assert four["favoured"]
    assert four["counts"][0] / sum(four["counts"]) == pytest.approx(0.32, abs=0.01)
    assert found["languages"]["en"] > 0.9
