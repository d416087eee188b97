"""Texts made comparable."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.duplicates.normal import BETWEEN, MEANINGFUL, NOISE, normalised, normalised_all

SCRIPTS = st.text(
    st.one_of(
        st.characters(max_codepoint=0x24FF, exclude_categories=("Cs",)),
        st.characters(min_codepoint=0x2E80, max_codepoint=0xFFFF, exclude_categories=("Cs",)),
        st.characters(),
    )
)


def by_the_book(text: str) -> str:
    """The slow twin: NFKC and casefold of the whole text, then character by character."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    signs = [
        " " if ord(c) < 0x10000 and c not in MEANINGFUL and unicodedata.category(c).startswith(NOISE) else c
        for c in folded
    ]
    return " ".join(part for part in "".join(signs).split(" ") if part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The β-blocker,\n(dose: 1.5 mg) ", "the β blocker dose 1 5 mg"),
        ("ＡＢＣ１２３，＜５％。", "abc123 <5%"),
        ("上消化道出血（呕血），取决于：", "上消化道出血 呕血 取决于"),
        ("p<0.05, Na+ ≥ 135, 37℃", "p<0 05 na+ ≥ 135 37°c"),
        ("e\u0301te\u0301 Straße ﬁne 5㎎ ①", "été strasse fine 5mg 1"),
        ("हिन्दी ไทย", "हिन्दी ไทย"),
        ("? !\n?", "? ! ?"),
        ("", ""),
    ],
)
def test_spelling_width_and_punctuation_do_not_count_but_digits_and_signs_do(
    text: str, expected: str
) -> None:
    assert normalised(text) == expected


@given(SCRIPTS)
def test_the_table_does_what_unicode_says(text: str) -> None:
    text = text.replace(BETWEEN, " ")
    expected = by_the_book(text)
    assert normalised(text) == (expected or " ".join(text.split()))


@given(st.lists(SCRIPTS | st.just(f"a{BETWEEN}b"), min_size=1, max_size=4))
def test_many_texts_at_once_are_each_by_itself(texts: list[str]) -> None:
    assert normalised_all(texts) == [normalised(text.replace(BETWEEN, " ")) for text in texts]
