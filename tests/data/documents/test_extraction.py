"""Documents become pairs that stand in them word for word; the rest is reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.documents.extraction import Extraction, extract, extraction
from seektune.data.records import Record
from seektune.errors import DataError


def read(text: str, kind: str = "text") -> Extraction:
    return extraction(Record("notes.md", 1, {"text": text, "kind": kind}))


def pairs(text: str, kind: str = "text") -> list[tuple[int, str, str]]:
    return [(pair.line, pair.fields["question"], pair.fields["answer"]) for pair in read(text, kind).pairs]


MARKDOWN = """# 用药指南

## 什么是二甲双胍？

一种降糖药：

```text
问：这不是问题
答：这是代码
```

1. 500 mg
   1. 每日 2 次

| 问题 | 答案 |
|---|---|
| 能喝酒吗？ | 不能，乳酸 > 4 mmol/L |

## 随访

**Q:** When?

**A:** In 4–6 weeks.

1. 饭前吃吗？ 饭后。
2. 要查肾功能吗？ eGFR < 45 时要。
"""


def test_every_kind_of_pair_of_a_document_is_found_with_its_line_and_span() -> None:
    found = read(MARKDOWN, "markdown")
    assert [(pair.row_id, pair.fields["question"]) for pair in found.pairs] == [
        ("notes.md:17", "能喝酒吗？"),
        ("notes.md:21", "When?"),
    ]
    assert found.pairs[0].fields["answer"] == "不能，乳酸 > 4 mmol/L"
    for pair in found.pairs:
        start, end = pair.fields["span"]
        assert pair.fields["question"] in MARKDOWN[start:end]
        assert pair.fields["answer"] in MARKDOWN[start:end]


def test_a_surer_pair_inside_another_takes_its_place_and_the_outer_question_is_reported() -> None:
    leftover = read(MARKDOWN, "markdown").leftover
    assert leftover.unanswered == (3,)
    assert leftover.unasked == ()
    assert 0 < leftover.characters < leftover.total


def test_the_same_pairs_come_from_text_markdown_and_html() -> None:
    expected = [("什么是甲？", "一。\n\n二。"), ("Why is it so?", "Because.")]
    text = "问：什么是甲？\n答：一。\n\n二。\n\nQ: Why is it so?\nA: Because.\n"
    markdown = "## 什么是甲？\n\n一。\n\n二。\n\n## Why is it so?\nBecause.\n"
    html = "<h2>什么是甲？</h2>\n<p>一。</p><p>二。</p>\n<dl><dt>Why is it so?<dd>Because.</dl>"
    assert [pair[1:] for pair in pairs(text)] == expected
    assert [pair[1:] for pair in pairs(markdown, "markdown")] == expected
    assert [pair[1:] for pair in pairs(html, "html")] == expected
    assert [pair[0] for pair in pairs(html, "html")] == [1, 3]


def test_a_span_of_html_holds_both_in_its_source() -> None:
    source = "<p>x</p><table><tr><th>Q<th>A</tr><tr><td>Why <b>so</b>?</td><td>p&lt;0.05</td></tr></table>"
    (pair,) = read(source, "html").pairs
    assert (pair.fields["question"], pair.fields["answer"]) == ("Why so?", "p<0.05")
    assert source[slice(*pair.fields["span"])] == "<tr><td>Why <b>so</b>?</td><td>p&lt;0.05</td>"


def test_what_cannot_be_paired_is_counted_not_guessed() -> None:
    leftover = read("Some words.\n\nQ: a?\nQ: b?\nA: c\n\n---\nA: d\n").leftover
    assert leftover.to_json() == {
        "file": "notes.md",
        "unanswered": (3, 4),
        "unasked": (8,),
        "characters": 27,
        "total": 27,
    }
    assert list(extract(Record("a.txt", 1, {"text": "", "kind": "text"}))) == []


def test_lines_count_from_the_records_own() -> None:
    (pair,) = extract(Record("a.txt", 10, {"text": "\n\nQ: a?\r\nA: b\r\n"}))
    assert (pair.row_id, pair.fields["question"], pair.fields["answer"]) == ("a.txt:12", "a?", "b")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": 3}, "notes.md:1: a document's `text` must be text, is int"),
        ({}, "must be text, is NoneType"),
        ({"text": "a", "kind": "pdf"}, "kind 'pdf'; known: text, markdown, html"),
    ],
)
def test_a_record_that_is_no_document_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(extract(Record("notes.md", 1, fields)))


WORDS = st.text(st.sampled_from("甲乙丙 ab ≤µ℃5.%"), min_size=3, max_size=20).filter(
    lambda words: any(map(str.isalpha, words))
)
PARAGRAPHS = st.lists(WORDS.map(lambda words: "说明 " + words.strip() + " 。"), min_size=1, max_size=3).map(
    "\n\n".join
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(WORDS, PARAGRAPHS), min_size=1, max_size=5),
    st.sampled_from(["问：{}\n答：{}\n\n", "Q: {}\nA: {}\n", "# {}\n\n{}\n\n", "**Q: {}**\n\n**A:** {}\n"]),
)
def test_what_is_written_as_pairs_is_read_as_pairs(rows: list[tuple[str, str]], shape: str) -> None:
    asked = [(f"什么是 {question.strip()} 吗？", answer) for question, answer in rows]
    text = "".join(shape.format(*row) for row in asked)
    found = pairs(text, "markdown")
    assert [(question, answer) for _, question, answer in found] == asked


PIECES = [
    "问：", "答：", "Q: ", "A: ", "B: ", "Answer: ", "# ", "### ", "1. ", "2. ", "（1）", "一、", "?", "？",
    "\n", "\n\n", "   ", "---\n", "```\n", "| Q | A |\n", "|---|---|\n", "| ", "**", "<p>", "</p>", "<li>",
    "<ol>", "</ol>", "<h2>", "</h2>", "<td>", "<tr>", "<table>", "<th>Q<th>A", "FAQ", "答案", "what is",
    "说明", "so.", "<!--", "-->", "</details>", "&lt;", "\r\n",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=40).map("".join),
    st.sampled_from(["text", "markdown", "html"]),
)
def test_any_document_gives_pairs_in_order_that_do_not_overlap(text: str, kind: str) -> None:
    found = read(text, kind)
    edge = 0
    for pair in found.pairs:
        start, end = pair.fields["span"]
        assert (edge if kind != "html" else 0) <= start < end <= len(text)
        edge = end
        assert pair.fields["question"].strip() == pair.fields["question"] != ""
        assert pair.fields["answer"].rstrip() == pair.fields["answer"] != ""
        if kind != "html":
            assert text[start:end].count(pair.fields["answer"])
            assert text[start:end].count(pair.fields["question"])
            assert pair.line == text.count("\n", 0, text.index(pair.fields["question"], start)) + 1
    leftover = found.leftover
    assert 0 <= leftover.characters <= leftover.total <= len(text) + 400
