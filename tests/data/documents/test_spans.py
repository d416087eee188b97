"""What reads as a question, and where questions and answers begin and end."""

from __future__ import annotations

import pytest

from seektune.data.documents.lines import lay_out
from seektune.data.documents.spans import answer_range, is_question, may_ask, question_range


@pytest.mark.parametrize(
    "words",
    ["What is X?", "什么是高血压", "高血压怎么办", "如何预防高血压", "How to reset it", "What are the risks",
     "¿Qué es la diabetes?", "Is it safe (for children)?", "头孢能和酒同服吗？", 'Why "so fast?"'],
)  # fmt: skip
def test_these_ask(words: str) -> None:
    assert is_question(words)
    assert may_ask(words)


@pytest.mark.parametrize(
    "words",
    ["Installation", "Need help?", "Still have questions?", "Do you have any questions?", "Why?", "真的？",
     "How it works", "What's new", "为什么", "高血压的治疗"],
)  # fmt: skip
def test_these_do_not_ask_outside_a_list_of_questions(words: str) -> None:
    assert not is_question(words)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("  **What is X?** ", "What is X?"),
        ("1.2 What is X?", "What is X?"),
        ("3.5 mg or 5 mg?", "mg or 5 mg?"),
        ("（1）什么？", "什么？"),
        ("[What is X?](#what)", "What is X?"),
        ('<a name="x"></a>What is X? {#x}', "What is X?"),
        ("10. Why?\nA. one\nB. two\n", "Why?\nA. one\nB. two"),
        ("How is it?#", "How is it?"),
        ("What is C#¶", "What is C#"),
        (" *** ", None),
    ],
)
def test_a_question_is_its_words(raw: str, words: str | None) -> None:
    found = question_range(raw, 0, len(raw))
    assert (raw[slice(*found)] if found else None) == words


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("\n\n a b\n\n  c\n\n---\n\n", "a b\n\n  c"),
        ("\n    code\n    more\n", "    code\n    more"),
        ("说明。\n\n二、治疗\n\n", "说明。"),
        ("分为：\n\n一、甲\n\n二、乙\n\n", "分为：\n\n一、甲\n\n二、乙"),
        ("see [x].\n\n[x]: http://y\n", "see [x]."),
        ("\n---\n***\n", None),
    ],
)
def test_an_answer_is_verbatim_but_for_its_edges(raw: str, words: str | None) -> None:
    text = raw + "问：下一个"
    found = answer_range(lay_out(text, markdown=False), 0, len(raw))
    assert (text[slice(*found)] if found else None) == words


def test_emphasis_that_the_label_opened_is_closed_by_the_answer() -> None:
    text = "**A: all of it**\n"
    found = answer_range(lay_out(text, markdown=True), 5, len(text), emphasis="**")
    assert found is not None
    assert text[slice(*found)] == "all of it"
