"""Pairs by tables: one column's header says question, another's says answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from seektune.data.documents.lines import Layout, Line
from seektune.data.documents.spans import Found, Range, has_words

_QUESTION = re.compile(r"(?:questions?|q|faq|问题?|提问|题目|常见问题)", re.I)
_ANSWER = re.compile(r"(?:answers?|a|responses?|答案?|回答|解答|答复|参考答案)", re.I)


def tabled(layout: Layout) -> Iterator[Found]:
    """Each row's question and answer, verbatim; a row with too few or many cells has no answer."""
    columns: tuple[int, int, int] | None = None
    inside = False
    for line in layout.lines:
        if line.kind != "row":
            inside = False
        elif not inside:
            columns, inside = _columns(layout.text, line), True
        elif columns and line.cells:
            yield from _pair(layout.text, line, columns)


def _columns(text: str, head: Line) -> tuple[int, int, int] | None:
    """Which column asks, which answers, and how many there are; None unless the header is plain."""
    names = [text[start:end].strip(" \t\n*_:：") for start, end in head.cells]
    asking = [index for index, name in enumerate(names) if _QUESTION.fullmatch(name)]
    answering = [index for index, name in enumerate(names) if _ANSWER.fullmatch(name)]
    return (asking[0], answering[0], len(names)) if len(asking) == len(answering) == 1 else None


def _pair(text: str, row: Line, columns: tuple[int, int, int]) -> Iterator[Found]:
    asking, answering, count = columns
    if len(row.cells) != count:
        cell = next((cell for cell in row.cells if has_words(text, *cell)), None)
        if cell:
            yield Found(row.start, _inner(text, cell))
        return
    question, answer = _inner(text, row.cells[asking]), _inner(text, row.cells[answering])
    if question or answer:
        yield Found(row.start, question, answer)


def _inner(text: str, cell: Range) -> Range | None:
    """A cell without its blank edges; None if nothing is in it."""
    start, end = cell
    words = text[start:end]
    start += len(words) - len(words.lstrip())
    end = start + len(words.strip())
    return (start, end) if has_words(text, start, end) else None
