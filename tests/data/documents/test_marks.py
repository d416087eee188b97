"""Labels, headings and numbered items are found where they stand, and nowhere else."""

from __future__ import annotations

import pytest

from seektune.data.documents.lines import lay_out
from seektune.data.documents.marks import Mark, marks_of


def marks(text: str) -> list[Mark]:
    return marks_of(lay_out(text, markdown=True))


def kinds(text: str) -> list[str]:
    return [mark.kind for mark in marks(text)]


@pytest.mark.parametrize(
    "label",
    ["问：", "问:", "问题：", "问题1：", "问题（一）：", "【问】", "[问题]", "患者提问：", "Q:", "q: ",
     "Q1. ", "Q. ", "**Q:** ", "**Q**: ", "Question 3: ", "QUESTION: ", "- Q: ", "2. 问：", "### Q: ",
     "__Question #4__: "],
)  # fmt: skip
def test_a_question_label_is_one_in_many_spellings(label: str) -> None:
    (mark,) = marks(label + "why")
    assert (mark.kind, (label + "why")[mark.content :]) == ("question", "why")


@pytest.mark.parametrize(
    "label",
    [
        "答：",
        "答案：",
        "参考答案:",
        "【答案】",
        "医生回答：",
        "A:",
        "A2: ",
        "**A:** ",
        "Answer: ",
        "ANS: ",
        "- 答:",
    ],
)
def test_an_answer_label_is_one_in_many_spellings(label: str) -> None:
    (mark,) = marks(label + "so")
    assert (mark.kind, (label + "so")[mark.content :]) == ("answer", "so")


@pytest.mark.parametrize(
    "line",
    [
        "Q.E.D. it is",
        "Questions about A: B",
        "Answer the call: now",
        "A 62-year-old: ill",
        "    Q: code",
        "问题在于：钱",
        "答复",
    ],
)
def test_a_line_that_only_looks_like_a_label_is_none(line: str) -> None:
    assert kinds(line) == []


def test_options_that_open_with_a_are_not_answers() -> None:
    assert kinds("Q: which?\nA: one\nB: two\nAnswer: A\nQ: x?\nA: y\n") == [
        "question",
        "answer",
        "question",
        "answer",
    ]


def test_several_labels_may_share_a_line() -> None:
    assert kinds("问：好吗？答：好。问：真的吗？ 答：真的。") == ["question", "answer", "question", "answer"]
    assert kinds("Q: Vitamin A: what is it? A: A vitamin.") == ["question", "answer"]


def test_a_heading_may_be_a_label() -> None:
    assert kinds("## Question 1\n## Answer\n## 问题\n## 答案\n## Else\n") == ["question", "answer"] * 2 + [
        "heading"
    ]


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("1. a", "1"),
        ("12) a", "12"),
        ("3、a", "3"),
        ("（4）a", "4"),
        ("十二、a", "12"),
        ("二十、a", "20"),
        ("③a", "3"),
        ("5．a", "5"),
    ],
)
def test_an_item_has_its_number(line: str, number: str) -> None:
    (mark,) = marks(line)
    assert (mark.kind, mark.number, line[mark.content :]) == ("item", number, "a")


def test_a_decimal_opens_no_item_and_an_indented_item_is_none() -> None:
    assert kinds("3.5 mg daily\n1.2 Nested\n    1. deeper\n") == []
