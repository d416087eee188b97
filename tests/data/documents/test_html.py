"""What a reader sees of a page, line by line, each with its place in the source."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.documents.html import lay_out_html


def seen(source: str) -> str:
    return lay_out_html(source).text


def test_text_is_what_a_reader_sees() -> None:
    source = (
        "<html><head><title>t</title><style>p{}</style></head><body><nav>menu</nav>"
        "<p>a &lt;b&gt;\n  &amp; <i>c</i></p><script>x</script>d<br>e<footer>f</footer></body></html>"
    )
    assert seen(source) == "a <b> & c\n\nd\ne"


def test_lists_code_and_tables_become_markdown() -> None:
    source = (
        "<ol><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></li></ol><pre>\n x\n\n  y</pre>"
        "<table><tr><th>e</th><th>f</th></tr><tr><td>g</td><td>h</td></tr></table>"
    )
    assert seen(source) == (
        "1. a\n    - b\n\n2. c\n\n   d\n\n```\n x\n\n  y\n```\n\n| e | f |\n| --- | --- |\n| g | h |"
    )


def test_raised_and_lowered_signs_are_not_lost() -> None:
    assert (
        seen("4&times;10<sup>9</sup>/L H<sub>2</sub>O Ca<sup>2+</sup> x<sup>ab</sup>")
        == "4×10⁹/L H₂O Ca²⁺ x^ab"
    )


def test_headings_terms_and_bold_questions_are_headings() -> None:
    layout = lay_out_html(
        "<h2>A</h2><dl><dt>B<dd>c</dl><p><b>D e?</b></p><p><b>f</b></p><details><summary>G</summary>"
    )
    found = [(line.level, layout.text[slice(*line.words)]) for line in layout.lines if line.kind == "heading"]
    assert found == [(2, "A"), (7, "B"), (7, "D e?"), (7, "G")]


def test_a_table_that_arranges_the_page_is_no_table() -> None:
    layout = lay_out_html("<table><tr><td><h2>Why is it so?</h2></td><td><p>Because.</p></td></tr></table>")
    assert [line.kind for line in layout.lines if line.kind != "blank"] == ["heading", "text", "end"]


def ends(source: str) -> list[tuple[int, str]]:
    """The level of each end, with the text that comes before it."""
    layout = lay_out_html(source)
    return [
        (line.level, layout.text[: line.start].split()[-1]) for line in layout.lines if line.kind == "end"
    ]


def test_what_a_heading_began_ends_with_its_container_but_not_with_that_of_the_title_alone() -> None:
    card = "<div><div><h3>a</h3><span>+</span></div><div>b</div></div>"
    assert ends(f"<h1>z</h1>{card}{card}<p>c</p>") == [(3, "b"), (3, "b")]
    assert ends("<section><h2>a</h2><div>b</div>c</section>d") == [(2, "c")]
    assert ends("<table><tr><th><h2>a</h2></th></tr></table>b") == [(2, "a")]
    assert ends("<div>a</div></div></section>b") == []


def test_every_line_knows_its_place_in_the_source() -> None:
    source = "<p>one</p>\n<p>two <b>three</b></p><h3>four</h3>five"
    layout = lay_out_html(source)
    for line, place in zip(layout.lines, layout.places, strict=True):
        words = layout.text[line.start : line.end].split()
        assert all(word in source[slice(*place)] for word in words)
    at = layout.text.index("two")
    assert source[slice(*layout.span(at, at + 3))] == "two <b>three</b>"


@pytest.mark.parametrize(
    "piece", ["<a ", "<![foo]>", "<table><tr><td>", "<nav>", "</li></ul></td></tr></table>", "<pre>"]
)
def test_broken_markup_is_read_in_time(piece: str) -> None:
    start = time.process_time()
    assert "end" in seen("<p>end</p>" + piece * 5000)
    assert time.process_time() - start < 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["p", "b", "h2", "ol", "li", "table", "tr", "td", "pre", "dl", "dt", "dd", "sup", "nav"]
        ).flatmap(lambda tag: st.sampled_from([f"<{tag}>", f"</{tag}>"]))
        | st.sampled_from(
            ["<br/>", "<hr>", "<!-- -->", "<![", "<!x", "&amp;", "&#10;", "<", ">", " ", "x", "y?", "问："]
        )
        | st.text(max_size=3)
    ).map("".join)
)
def test_any_source_gives_lines_in_order_with_places_in_the_source(source: str) -> None:
    layout = lay_out_html(source)
    assert len(layout.lines) == len(layout.places)
    for line, following in pairwise(layout.lines):
        assert line.start <= line.end <= following.start
    assert all(0 <= start <= end <= len(source) for start, end in layout.places)
    for line in layout.lines:
        for start, end in line.cells:
            assert line.start < start <= end < line.end
