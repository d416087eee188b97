"""A text's lines tile it; Markdown's headings, tables, code and comments are told apart."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.documents.lines import MINOR, Layout, lay_out


def kinds(text: str, markdown: bool = True) -> list[str]:
    return [line.kind for line in lay_out(text, markdown).lines]


def headings(text: str) -> list[tuple[int, str]]:
    layout = lay_out(text, markdown=True)
    return [(line.level, text[slice(*line.words)]) for line in layout.lines if line.kind == "heading"]


def test_headings_are_marked_underlined_or_a_bold_question_of_their_own() -> None:
    text = "# One #\n\nTwo\n---\n\nThree\n===\n\n**Four?**\n**five**\n"
    text += "<details><summary>Six</summary>\n####### no\n#no\n"
    assert headings(text) == [(1, "One"), (2, "Two"), (1, "Three"), (MINOR, "Four?**"), (MINOR, "Six")]


def test_a_plain_text_has_neither_headings_nor_tables() -> None:
    assert kinds("# a\nb\n---\n| c |\n|---|\n", markdown=False) == [
        "text",
        "text",
        "break",
        "text",
        "text",
        "blank",
    ]


def test_a_rule_under_a_list_item_is_a_rule() -> None:
    assert kinds("- a\n---\n") == ["text", "break", "blank"]


def test_nothing_inside_code_front_matter_or_a_comment_is_a_heading() -> None:
    text = "---\n# a\n---\n# b\n```sh\n# c\n```\n~~~\n```\n# d\n~~~\n<!-- \n# e\n-->\n# f\n"
    assert [words for _, words in headings(text)] == ["b", "f"]
    assert kinds("```\n# never closed") == ["code", "code"]


def test_a_table_needs_a_rule_of_as_many_cells_and_keeps_escaped_bars() -> None:
    text = "| a | b\\|c |\n|:--|--:|\n| `d` |  |\ne | f\n\n| g |\n"
    layout = lay_out(text, markdown=True)
    assert [line.kind for line in layout.lines] == ["row", "row", "row", "row", "blank", "text", "blank"]
    cells = [[text[slice(*cell)].strip() for cell in line.cells] for line in layout.lines[:4]]
    assert cells == [["a", "b\\|c"], [], ["`d`", ""], ["e", "f"]]
    assert kinds("| a | b |\n|---|\n") == ["text", "text", "blank"]


def test_a_span_is_that_of_the_text_itself() -> None:
    assert lay_out("ab\ncd", markdown=False).span(1, 4) == (1, 4)
    assert isinstance(lay_out("", markdown=True), Layout)


@settings(deadline=None)
@given(st.text(st.sampled_from("#-=*_|`~ \n\r\taé？?<>!1.、问:：")), st.booleans())
def test_the_lines_of_any_text_are_in_order_and_leave_nothing_out(text: str, markdown: bool) -> None:
    lines = lay_out(text, markdown).lines
    assert lines[0].start == 0
    assert len(text.rstrip("\r")) <= lines[-1].end <= len(text)
    for line, following in pairwise(lines):
        assert line.start <= line.end < following.start
        assert text[line.end : following.start] in ("\n", "\r\n")
    for line in lines:
        for start, end in (line.words, *line.cells):
            assert line.start <= start <= end <= line.end or (start, end) == (0, 0)
