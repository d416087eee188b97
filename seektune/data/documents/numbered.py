"""Pairs by numbering: "1. …？ answer" in a list most of whose items are questions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from seektune.data.documents.lines import Layout
from seektune.data.documents.marks import Mark
from seektune.data.documents.spans import Found, Range, answer_range, lines_between, question_range

_ASKED = re.compile(r"[?？][\"'”’)）」』*_]*(?=\s|\Z|[\u3400-\u9fff]|(?<=[^\x00-\x7f])|(?<=[*_]))")
_TOLD = re.compile(
    r"[。！!；;]|[a-z)]\.\s+[A-Z]"
)  # a sentence before the question: a case, not a plain question
_FORM = re.compile(r"_{3,}|＿{3,}|\.{6,}|…{3,}")
_NO_ANSWER = re.compile(
    r"[*_]{0,3}(?:[□☐○◯■☑]|\[[ xX]?\]|[(（]\s*[)）]"  # boxes to tick
    r"|[(（]?A[.:：、．)）]"  # options
    r"|[【\[]?(?:(?:参考|正确|标准)?答案|(?:医生|专家)?(?:答|解答|回答)(?=[:：】])|(?:A|Ans|Answers?)[:：\]]))"
)


def numbered(layout: Layout, marks: Sequence[Mark], markdown: bool) -> Iterator[Found]:
    """Numbered questions, each with what follows up to the next; without an answer where that is not certain.

    Deeper and restarting numbers belong to the answer. In Markdown and HTML a paragraph that is not indented
    ends the list after its last answer.
    """
    items: list[Mark] = []
    for mark in marks:
        if mark.kind == "item":
            items.append(mark)
        else:
            yield from _lists(layout, items, mark.start, markdown)
            items = []
    yield from _lists(layout, items, len(layout.text), markdown)


def _lists(layout: Layout, items: Sequence[Mark], end: int, markdown: bool) -> Iterator[Found]:
    """The lists among the items of one stretch of text that ends at `end`."""
    run: list[Mark] = []
    asks: list[bool] = []
    outer: set[str] = set()
    nested = 0  # the last number of a list inside the open answer
    for item, following in zip_longest(items, items[1:]):
        limit = following.start if following else end
        number, question = int(item.number), _question(layout, item, limit) is not None
        if not run or item.style in outer:
            starts = True
        elif item.style != run[0].style:
            if any(asks):
                continue
            outer.add(run[0].style)
            starts = True
        elif number == int(run[-1].number) + 1 and (question or nested + 1 != number):
            starts, nested = False, 0
        elif number == nested + 1 and not question:
            nested += 1
            continue
        else:
            starts = True
        if starts and run:
            yield from _pairs(layout, run, asks, item.start, markdown)
        run, asks = ([item], [question]) if starts else ([*run, item], [*asks, question])
        nested = 0
    yield from _pairs(layout, run, asks, end, markdown)


def _pairs(
    layout: Layout, run: Sequence[Mark], asks: Sequence[bool], end: int, markdown: bool
) -> Iterator[Found]:
    """The pairs of one list, if most of its items are questions."""
    if 2 * sum(asks) <= len(run):
        return
    for index, (item, asking) in enumerate(zip(run, asks, strict=True)):
        last = index + 1 == len(run)
        stop = end if last else run[index + 1].start
        if asking and (found := _question(layout, item, stop)):
            question, begin = found
            if last and markdown:
                stop = _list_end(layout, begin, stop)
            answer = answer_range(layout, begin, stop)
            yield Found(item.start, question, answer if answer and _answers(layout.text, answer) else None)


def _question(layout: Layout, item: Mark, end: int) -> tuple[Range, int] | None:
    """The question that opens an item and where its answer may begin; None if the item does not ask."""
    text = layout.text
    blank = text.find("\n\n", item.content, end)
    stop = min(blank, end) if blank >= 0 else end
    asked = _ASKED.search(text, item.content, min(stop, item.content + 1000))
    if asked is None or _TOLD.search(text, item.content, asked.start()):
        return None
    question = question_range(text, item.content, asked.end())
    return (question, asked.end()) if question else None


def _answers(text: str, answer: Range) -> bool:
    """Whether what follows a numbered question answers it: no further question, blanks, options or label."""
    words = text[slice(*answer)]
    asks = words.rstrip("\"'”’)）*_").endswith(("?", "？"))
    return not (asks or _FORM.search(words) or _NO_ANSWER.match(words))


def _list_end(layout: Layout, begin: int, end: int) -> int:
    """Where the last item ends: at a paragraph that is neither indented nor the first after the question."""
    told = layout.text[begin : _line_end(layout.text, begin)].strip() != ""
    after_blank = False
    for line in lines_between(layout, begin, end):
        indented = layout.text.startswith((" ", "\t"), line.start)
        if line.kind == "text" and after_blank and not indented:
            if told:
                return line.start
            return end  # answers of this list are not indented at all
        told = told or line.kind in ("text", "code", "row")
        after_blank = line.kind == "blank"
    return end


def _line_end(text: str, begin: int) -> int:
    end = text.find("\n", begin)
    return len(text) if end < 0 else end
