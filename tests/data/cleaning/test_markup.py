"""HTML becomes text; comparisons, placeholders and code are no HTML."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.cleaning.markup import html


@pytest.mark.parametrize(
    "text",
    [
        "p<0.05 and a<b, b>c; x <i and y> 3",
        "<image>这张片子<think>reason</think>answer",
        "a<b>c is a<b and b>c, P <p> 0.05",
        "Dear <name>, of <address> and <label>",
        "List<String>, #include <stdio.h>, <john@example.com>, <User>, <MASK>",
        "AT&T &notit &copy2 R&D;",
        "`<b>` and ```<p>```",
        "```html\n<p>kept</p>\n```",
        "1 < 2 & 3 > 2",
    ],
)
def test_what_only_looks_like_html_stays(text: str) -> None:
    assert html(text) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<b>bold</b> <span class='x>y'>and</span> <a href=\"u\">link</a>", "bold and link"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<p>first</p><p>second</p>", "\nfirst\n\nsecond\n"),
        ("<tr><td>阿司匹林</td><td>100&nbsp;mg</td></tr>", "\n阿司匹林\t100 mg\t\n"),
        ("p&lt;0.05 &amp; R&sup2; &#x27;x&#39; &deg;C", "p<0.05 & R² 'x' °C"),
        ("10<sup>9</sup>/L, Ca<sup>2+</sup>, H<sub>2</sub>O", "10⁹/L, Ca²⁺, H₂O"),
        ("10<sup>a</sup> 2<sup>x+1</sup> V<sub>max</sub>", "10^a 2^(x+1) Vmax"),
        ("a<!-- hidden -->b<script>alert(1)</script>c<style>p{}</style>", "abc"),
        ("&lt;b&gt; stays a text", "<b> stays a text"),
        ("<div>`<b>` is bold</div>", "\n`<b>` is bold\n"),
    ],
)
def test_tags_and_entities_become_plain_text(markup: str, text: str) -> None:
    assert html(markup) == text


@given(st.text(alphabet="ab <>/&;=\"'`\n!-", max_size=60))
def test_any_text_goes_through_and_loses_no_letter_outside_a_tag(text: str) -> None:
    after = html(text)
    assert isinstance(after, str)
    if "<" not in text and "&" not in text:
        assert after == text


@pytest.mark.parametrize(
    "piece",
    ["<", "<a ", "<a x ", "<!--", "<script>", "<sup>", "&", "`", '<p x="', "<b>", " \n", "<td x = "],
)
def test_hostile_markup_takes_linear_time(piece: str) -> None:
    start = time.process_time()
    html("<br>" + piece * (200_000 // len(piece)))
    assert time.process_time() - start < 2
