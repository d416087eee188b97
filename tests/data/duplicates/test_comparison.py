"""What two rows are compared by, and the verdict on two texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seektune.data.duplicates.comparison import (
    alike,
    asked_in,
    canonical,
    question_text,
    same_answer,
    text_of,
)
from seektune.types import Example, Message, Pair, ToolCall

CUTOFF = 0.87


def closed(
    question: str, options: list[str], answer: int, instruction: str = "Answer with the letter."
) -> Example:
    lettered = tuple(f"{letter}. {text}" for letter, text in zip("ABCDE", options, strict=False))
    content = "\n".join([question, *lettered, instruction])
    return Example(
        (Message("user", content), Message("assistant", lettered[answer])), "a:1", lettered, answer
    )


def open_row(question: str, answer: str, images: tuple[str, ...] = ()) -> Example:
    return Example((Message("user", question), Message("assistant", answer)), "a:1", images=images)


def test_a_closed_question_is_its_question_and_options_without_the_instruction() -> None:
    row = closed("Deficiency of vitamin C causes?", ["Rickets", "Scurvy"], 1)
    assert question_text(row) == "deficiency of vitamin c causes\na rickets\nb scurvy"
    assert text_of(row) == "deficiency of vitamin c causes\na rickets\nb scurvy\tscurvy"


def test_system_messages_are_left_out_and_tool_calls_are_not() -> None:
    row = Example(
        (
            Message("system", "You are a doctor."),
            Message("user", "Weather?"),
            Message("assistant", "", (ToolCall("weather", '{"city": "Wuhan"}'),)),
            Message("tool", "Sunny"),
            Message("assistant", "It is sunny."),
        ),
        "a:1",
    )
    assert text_of(row) == "weather\tweather city wuhan\nsunny\nit is sunny"


def test_both_sides_of_a_pair_count_and_one_may_be_missing() -> None:
    prompt = (Message("user", "Hello"),)
    chosen, rejected = Message("assistant", "Hi."), Message("assistant", "No!")
    assert text_of(Pair(prompt, chosen, rejected, "a:1")) == "hello\thi\nno"
    assert text_of(Pair(prompt, None, rejected, "a:1")) == "hello\tno"


def test_plain_text_is_its_own_question() -> None:
    row = Example((Message("assistant", "Aspirin, a drug."),), "a:1")
    assert question_text(row) == text_of(row) == "aspirin a drug"


@pytest.mark.parametrize(
    "row",
    [
        closed("Which?", ["one", "two", "three"], 0),
        open_row("Why?", "Because."),
        open_row("What is seen?", "A cat.", ("cat.png",)),
        Example((Message("assistant", "Text."),), "a:1", images=("b.png",)),
    ],
)
def test_the_question_can_be_read_from_the_whole_text(row: Example) -> None:
    assert asked_in(text_of(row)) == question_text(row)


def test_shuffled_options_are_equal_and_other_options_are_not() -> None:
    one = closed("Which drug?", ["aspirin", "heparin", "warfarin"], 1)
    shuffled = closed("Which drug?", ["warfarin", "aspirin", "heparin"], 2)
    other = closed("Which drug?", ["warfarin", "aspirin", "hirudin"], 2)
    assert canonical(text_of(one)) == canonical(text_of(shuffled))
    assert canonical(text_of(one)) != canonical(text_of(other))


def test_shuffled_options_with_edits_are_alike() -> None:
    one = question_text(
        closed("Which is used for heparin overdose?", ["aspirin", "protamine", "warfarin"], 1)
    )
    other = question_text(
        closed("Which is used for heparin overdose", ["warfarins", "asprin", "protamine"], 2)
    )
    assert CUTOFF <= alike(one, other, CUTOFF) < 1


def test_the_same_options_under_another_short_question_are_another_question() -> None:
    options = ["杀虫灭虱", "泻水逐饮", "消肿生肌", "清热收敛", "破血止痛"]
    one, other = (question_text(closed(f"{herb}的功效是", options, 0)) for herb in ("芫花", "百部"))
    assert alike(one, other, CUTOFF) == 0


def test_rows_about_different_images_are_never_alike() -> None:
    one = text_of(open_row("What does the picture show?", "A cat on a sofa.", ("1.png",)))
    other = text_of(open_row("What does the picture show?", "A cat on a sofa.", ("2.png",)))
    assert alike(one, other, CUTOFF) == 0
    assert alike(one, one, CUTOFF) == 1


def test_one_long_instruction_does_not_make_two_short_texts_alike() -> None:
    instruction = "decide whether the following sentence is positive or negative and answer with one word "

    def common(text: str) -> NDArray[np.bool_]:
        return np.arange(len(text)) < len(instruction)

    one, other = instruction + "dull film", instruction + "splendid"
    assert alike(one, other, CUTOFF) > 0
    assert alike(one, other, CUTOFF, common) == 0
    assert alike(one, one.replace("film", "filn"), CUTOFF, common) > CUTOFF


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("aspirin", "asprin", True),
        ("yes", "no", False),
        ("positive", "negative", False),
        ("hyperkalemia", "hypokalemia", False),
        ("5 mg daily", "6 mg daily", False),
        ("intent homeappliance control command 开机", "intent homeappliance control command 关机", False),
        ("command 查询状态", "command 查询状态吧", True),
        ("b", "c", False),
        ("city jiangxi index air quality", "city shanxi index air quality", False),
        (
            "the liver makes it and the kidney removes it",
            "the livver makes it, and the kidney remove it",
            True,
        ),
    ],
)
def test_an_answer_is_the_same_but_for_a_slip_of_the_pen(one: str, other: str, same: bool) -> None:
    assert same_answer(f"why\t{one}", f"why\t{other}", CUTOFF) is same


def test_another_option_is_another_answer_however_alike() -> None:
    options = ["vitamin K1", "vitamin K2"]
    one, other = (text_of(closed("Which is in green leaves?", options, answer)) for answer in (0, 1))
    assert not same_answer(one, other, CUTOFF)


TEXTS = st.text(st.sampled_from("abc 的\n\t\f"), max_size=30)


@given(TEXTS, TEXTS)
def test_the_verdict_is_a_similarity_whatever_the_texts(one: str, other: str) -> None:
    similarity = alike(one, other, CUTOFF)
    assert similarity == 0 or CUTOFF <= similarity <= 1
    assert alike(one, one, CUTOFF) == 1
    same_answer(one, other, CUTOFF)
    canonical(one)
