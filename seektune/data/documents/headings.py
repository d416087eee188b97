"""Pairs by headings: a heading that asks, and what stands under it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from seektune.data.documents.lines import MINOR, Layout
from seektune.data.documents.marks import Mark
from seektune.data.documents.spans import (
    Found,
    Range,
    answer_range,
    has_words,
    is_question,
    may_ask,
    question_range,
)

_FAQ = re.compile(
    r"\bFAQs?\b|frequently asked|常见问题|常见问答|问答|答疑|\bQ\s*&\s*A\b|questions and answers", re.I
)
_LINK = re.compile(r"!?\[[^\]]*\]\([^)]*\)|https?://\S+")


def headed(layout: Layout, marks: Sequence[Mark]) -> Iterator[Found]:
    """Headings that ask, each with what stands under it; without an answer where that is not certain.

    Under a FAQ's heading a question needs no question mark. Headings below a question belong to its answer
    unless they ask too; a title (level 1) with headings below is not paired: it would take the document.
    """
    text = layout.text
    bounds = [mark for mark in marks if mark.kind in ("heading", "break", "end", "question", "answer")]
    ruled = any(
        one.kind == "break" and two.kind == "heading" and not has_words(text, one.content, two.start)
        for one, two in pairwise(bounds)
    )
    faq = 0  # level of the FAQ heading we are under
    for index, mark in enumerate(bounds):
        if mark.kind != "heading":
            continue
        if faq and mark.level <= faq:
            faq = 0
        question = question_range(text, mark.content, mark.stop)
        words = text[slice(*question)] if question else ""
        if _FAQ.search(words) and not words.endswith(("?", "？")):
            faq = faq or mark.level
        elif question and (may_ask(words) if faq else is_question(words)):
            yield _under(layout, bounds, index, question, ruled or mark.level == MINOR)


def _under(layout: Layout, bounds: Sequence[Mark], index: int, question: Range, ruled: bool) -> Found:
    """A heading's question with its answer; labels below it leave it to them.

    `ruled`: a rule ends the answer, as where the document has one between its parts.
    """
    mark, text = bounds[index], layout.text
    begin, end, whole = layout.lines[mark.line].end, len(text), True
    for other in (bounds[place] for place in range(index + 1, len(bounds))):
        closes = other.kind in ("heading", "end") and other.level <= mark.level
        if closes or (other.kind == "break" and ruled):
            end = other.start
            break
        if other.kind in ("question", "answer"):
            return Found(mark.start, question)
        if other.kind == "heading":
            asks = is_question(text[other.content : other.stop].strip(" *_"))
            if asks or mark.level == 1:
                end, whole = other.start, asks
                break
    answer = answer_range(layout, begin, end) if whole else None
    words = _LINK.sub("", text[slice(*answer)]) if answer else ""
    asks_back = "\n" not in words and words.endswith(("?", "？"))
    return Found(mark.start, question, answer if has_words(words, 0, len(words)) and not asks_back else None)
