"""Headings that ask are paired with what stands under them."""

from __future__ import annotations

import pytest

from seektune.data.documents.headings import headed
from seektune.data.documents.lines import lay_out
from seektune.data.documents.marks import marks_of


def found(text: str) -> list[tuple[str, str]]:
    layout = lay_out(text, markdown=True)
    return [
        (text[slice(*one.question)] if one.question else "", text[slice(*one.answer)] if one.answer else "")
        for one in headed(layout, marks_of(layout))
    ]


def test_the_answer_is_all_that_stands_under_the_question_verbatim() -> None:
    body = "Run:\n\n```sh\n# not a heading?\n\n    x = 1\n```\n\n1. a\n   1. b\n\n### Detail\n\nc"
    assert found(f"# Guide\n\n## How do I start?\n\n{body}\n\n---\n\n## Licence\nMIT\n") == [
        ("How do I start?", body)
    ]


def test_a_question_with_questions_below_is_answered_by_what_comes_before_them() -> None:
    assert found("# What is it?\nThis.\n## How does it work?\nSo.\n") == [
        ("What is it?", "This."),
        ("How does it work?", "So."),
    ]


def test_a_document_is_not_the_answer_to_its_title() -> None:
    assert found("# What is seektune?\nThis.\n## Install\nSo.\n") == [("What is seektune?", "")]


def test_under_a_faq_a_question_needs_no_question_mark_but_a_title_is_none() -> None:
    text = "## 常见问题\n### 能否同服\n不能。\n### 联系我们\n电话\n"
    text += "## FAQ\n### Can I stop\nNo.\n## Where it ends\nx\n"
    assert found(text) == [("能否同服", "不能。"), ("Can I stop", "No.")]


def test_bold_questions_and_summaries_end_at_the_next() -> None:
    text = "**What is a b?**\nc\n\n**Why is d e?**\nf\n\n---\ng\n"
    text += "<details><summary>Who is h i?</summary>\nj\n</details>\nk\n"
    assert found(text) == [("What is a b?", "c"), ("Why is d e?", "f"), ("Who is h i?", "j")]


@pytest.mark.parametrize(
    "body",
    ["", "\n", "- [there](x)\n", "![](picture.png)\n", "What is c d?\n", "Q: a?\nA: b\n", "A: b\n", "---\n"],
)
def test_a_heading_without_an_answer_of_its_own_is_left(body: str) -> None:
    assert found(f"## What is a b?\n{body}") == [("What is a b?", "")]


def test_where_rules_stand_between_the_parts_a_rule_ends_an_answer() -> None:
    text = "## What is a b?\n\nc\n\n---\n\nd\n"
    assert found(text) == [("What is a b?", "c\n\n---\n\nd")]
    assert found(f"# e\n\n---\n\n{text}") == [("What is a b?", "c")]
