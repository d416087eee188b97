"""Blocks of a page become lines of one text."""

from __future__ import annotations

from seektune.data.documents.blocks import Block, assembled, shifted


def test_blocks_are_lines_in_order_with_their_places() -> None:
    layout = assembled([Block("a", "heading", (0, 3), level=2), Block("b", "text", (5, 9), apart=True)])
    assert layout.text == "a\n\nb"
    assert [(line.kind, line.start, line.end) for line in layout.lines] == [
        ("heading", 0, 1),
        ("blank", 2, 2),
        ("text", 3, 4),
    ]
    assert layout.places == ((0, 3), (5, 5), (5, 9))
    assert layout.span(3, 4) == (5, 9)


def test_an_end_takes_no_room() -> None:
    layout = assembled(
        [Block("a", "text", (0, 1)), Block("", "end", (1, 1), level=7), Block("b", "text", (2, 3))]
    )
    assert layout.text == "a\nb"
    assert [(line.kind, line.start) for line in layout.lines] == [("text", 0), ("end", 2), ("text", 2)]
    assert layout.span(2, 3) == (2, 3)


def test_the_cells_of_a_row_are_found_in_its_text() -> None:
    layout = assembled([Block("| a | b\nc |", "row", (0, 9), cells=("a", "b\nc"))])
    assert [layout.text[slice(*cell)] for cell in layout.lines[0].cells] == ["a", "b\nc"]


def test_raised_and_lowered_text_is_marked_where_it_has_no_signs_of_its_own() -> None:
    assert [shifted(text, "sup") for text in ("9", " 2+", "th", "")] == ["⁹", " ²⁺", "^th", ""]
    assert [shifted(text, "sub") for text in ("2", "max")] == ["₂", "_max"]
