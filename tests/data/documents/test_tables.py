"""Tables whose header says question and answer."""

from __future__ import annotations

import pytest

from seektune.data.documents.html import lay_out_html
from seektune.data.documents.lines import Layout, lay_out
from seektune.data.documents.tables import tabled


def found(layout: Layout) -> list[tuple[str, str]]:
    return [
        tuple(layout.text[slice(*part)] if part else "" for part in (one.question, one.answer))  # type: ignore[misc]
        for one in tabled(layout)
    ]


@pytest.mark.parametrize(
    ("asks", "answers"), [("Question", "Answer"), ("**Q**", "A"), ("问题", "答案"), ("问", "答")]
)
def test_each_row_is_a_pair(asks: str, answers: str) -> None:
    text = f"| {asks} | {answers} |\n|---|---|\n| what? | a \\| b |\n| why? | `c` |\n"
    assert found(lay_out(text, markdown=True)) == [("what?", "a \\| b"), ("why?", "`c`")]
    page = f"<table><tr><th>{asks}<th>{answers}<tr><td>what?<td><p>a</p><p>b</p></table>"
    assert found(lay_out_html(page)) == [("what?", "a\nb")]


def test_other_columns_may_stand_beside_them_in_any_order() -> None:
    text = "No | Answer | Question\n--|--|--\n1 | a | q?\n2 | b\n3 | | c?\n"
    assert found(lay_out(text, markdown=True)) == [("q?", "a"), ("2", ""), ("c?", "")]


@pytest.mark.parametrize(
    "head", ["| Term | Meaning |", "| Question | Score |", "| Q | A | Answer |", "| Question 1 | Answer 1 |"]
)
def test_a_table_with_another_header_is_left(head: str) -> None:
    rule = "|---" * (head.count("|") - 1) + "|"
    row = "| x " * (head.count("|") - 1) + "|"
    assert found(lay_out(f"{head}\n{rule}\n{row}\n", markdown=True)) == []
