"""Labelled questions and answers are paired when it is certain which belong together."""

from __future__ import annotations

from seektune.data.documents.labels import labelled
from seektune.data.documents.lines import lay_out
from seektune.data.documents.marks import marks_of


def found(text: str) -> list[tuple[str, str]]:
    layout = lay_out(text, markdown=True)
    shown = [
        tuple(layout.text[slice(*part)] if part else "" for part in (one.question, one.answer))
        for one in labelled(layout, marks_of(layout))
    ]
    return [(question, answer) for question, answer in shown]


def pairs(text: str) -> list[tuple[str, str]]:
    return [pair for pair in found(text) if all(pair)]


def test_an_answer_reaches_to_the_next_question_rule_or_heading() -> None:
    text = "Q: a?\nA: b\n\nc\n\n- d\n    1. e\n\nQ: f?\nA: g\n---\nh\n\nQ: i?\nA: j\n## k\nl\n"
    assert pairs(text) == [("a?", "b\n\nc\n\n- d\n    1. e"), ("f?", "g"), ("i?", "j")]


def test_headings_below_a_labelled_heading_belong_to_its_answer() -> None:
    assert pairs("## Q: a?\nA: b\n### c\nd\n## e\nf\n") == [("a?", "b\n### c\nd")]


def test_questions_keep_their_lines_and_options() -> None:
    assert pairs("问：选哪个？\nA. 甲\nB. 乙\n答案：B\n解析：乙对。\n") == [
        ("选哪个？\nA. 甲\nB. 乙", "B\n解析：乙对。")
    ]


def test_an_unlabelled_question_above_an_answer_is_its_question() -> None:
    assert pairs("1. 甲是什么？\n答：一。\n2. 简述乙。\n答：二。\n(1) 三\n") == [
        ("甲是什么？", "一。"),
        ("简述乙。", "二。\n(1) 三"),
    ]
    assert pairs("甲是什么？\n答：一。\n乙是什么？\n答：二。\n") == [
        ("甲是什么？", "一。"),
        ("乙是什么？", "二。"),
    ]
    assert pairs("## 甲\n\n长一点，\n这样吗？\n\n答：是。\n") == [("长一点，\n这样吗？", "是。")]
    assert pairs("## 什么是甲\n\n答：一。\n") == [("什么是甲", "一。")]


def test_what_is_not_certain_is_not_paired() -> None:
    assert found("Q1: a?\nQ2: b?\nA1: c\nA2: d\n") == [("a?", ""), ("b?", ""), ("", "")]
    assert found("Q1: a?\nA2: b\n") == [("a?", "")]
    assert found("Q: a?\nA. b\n") == [("a?", "")]
    assert found("1. 甲是什么？\n2. 乙是什么？\n答案：\n1. 一\n2. 二\n") == [("", "")]
    assert found("Q: a?\n## b\nA: c\n") == [("a?", ""), ("", "")]
    assert found("Intro.\n答：甲。\n") == [("", "")]
    assert found("Q: a?" + " b" * 2500 + "\nA: c\n")[0][1] == ""


def test_letters_with_full_stops_are_paired_among_themselves() -> None:
    assert pairs("Q. a?\nA. b\n") == [("a?", "b")]
