"""Numbered questions are paired with what follows them; other lists are left alone."""

from __future__ import annotations

import pytest

from seektune.data.documents.lines import lay_out
from seektune.data.documents.marks import marks_of
from seektune.data.documents.numbered import numbered


def found(text: str, markdown: bool = False) -> list[tuple[str, str]]:
    layout = lay_out(text, markdown)
    return [
        (text[slice(*one.question)] if one.question else "", text[slice(*one.answer)] if one.answer else "")
        for one in numbered(layout, marks_of(layout), markdown)
    ]


def test_an_answer_follows_on_the_line_or_below() -> None:
    text = "1. What is X? It is 3.5 mg.\n2. Why\n   not? Because.\n\n   More.\n3. **Who?**\nMe.\n"
    assert found(text) == [
        ("What is X?", "It is 3.5 mg."),
        ("Why\n   not?", "Because.\n\n   More."),
        ("Who?", "Me."),
    ]
    assert found("一、甲是什么？一。\n二、乙呢?二。\n") == [("甲是什么？", "一。"), ("乙呢?", "二。")]


def test_deeper_and_restarting_numbers_belong_to_the_answer() -> None:
    steps = "So:\n1. a\n2. b\n   1. c\n(1) d\n1.1 e"
    assert found(f"1. How is it?\n{steps}\n2. And then?\nEnd.\n") == [
        ("How is it?", steps),
        ("And then?", "End."),
    ]


def test_sections_around_the_questions_bound_them() -> None:
    text = "一、基础\n1. 甲是什么？\n一。\n二、治疗\n1. 乙是什么？\n二。\n"
    assert found(text) == [("甲是什么？", "一。"), ("乙是什么？", "二。")]


def test_in_markdown_a_paragraph_that_is_not_indented_ends_the_list() -> None:
    text = "1. What? So.\n\n   More.\n2. Why? So.\n\n   More.\n\nAnd in other news.\n"
    assert found(text, markdown=True)[-1] == ("Why?", "So.\n\n   More.")
    assert found("1. What?\n\nSo.\n\nMore.\n", markdown=True) == [("What?", "So.\n\nMore.")]


@pytest.mark.parametrize(
    "text",
    ["1. Wash.\n2. Dry.\n", "1. Eat well.\n2. Sleep? Yes.\n3. Walk.\n", "1. A man falls. What now? Rest.\n",
     "See x?y=1 2. b\n", "1. It doubles (why?) each year.\n2. It halves.\n", ""],
)  # fmt: skip
def test_a_list_that_does_not_ask_is_no_list_of_questions(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    ["1. Do you smoke? □ Yes □ No\n", "1. Your name? ____\n", "1. Do you smoke? If so, how much?\n",
     "1. Which?\nA. x\nB. y\n", "1. 哪个？\n答：乙\n",
     "1. Why?\n\nAnswers:\n1. So.\n", "1. Why?\n", "1. 是吗？（ ）\n"],
)  # fmt: skip
def test_a_form_an_exam_and_a_question_alone_are_not_answered(text: str) -> None:
    assert [answer for _, answer in found(text)] == [""]
