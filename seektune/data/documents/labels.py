"""Pairs by their labels: 问：/答：, Q:/A:, Question/Answer, and a question right above an answer's label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from seektune.data.documents.lines import MINOR, Layout
from seektune.data.documents.marks import Mark
from seektune.data.documents.spans import (
    Found,
    answer_range,
    lines_between,
    may_ask,
    question_range,
)

LONGEST_QUESTION = 4000
"""Characters between a question's label and its answer's; beyond it they hardly belong together."""

IMPLIED_LINES = 12
"""Lines of an unlabelled question, options included, above its answer's label."""


def labelled(layout: Layout, marks: Sequence[Mark]) -> Iterator[Found]:
    """Pairs whose answer has a label, questions without one, and answers without a question.

    Two questions in a row before an answer, and labels with different numbers, are not paired.
    """
    marks = list(_with_implied(layout, marks))
    asked: Mark | None = None
    doubtful = False
    for index, mark in enumerate(marks):
        if mark.kind == "question":
            if asked:
                yield _alone(layout, asked, mark.start)
            asked, doubtful = mark, asked is not None
        elif mark.kind in ("heading", "break"):
            if asked:
                yield _alone(layout, asked, mark.start)
            asked = None
        elif mark.kind == "answer" and asked is None:
            yield Found(mark.start, None, (mark.content, mark.content))
        elif mark.kind == "answer" and asked:
            pair = _pair(layout, asked, mark, _end(layout, marks, index, asked.level))
            fits = pair.answer and not doubtful and _belong(asked, mark)
            yield pair if fits else replace(pair, answer=None)
            asked = None
    if asked:
        yield _alone(layout, asked, len(layout.text))


def _alone(layout: Layout, asked: Mark, end: int) -> Found:
    return Found(asked.start, question_range(layout.text, asked.content, min(end, asked.content + 200)))


def _pair(layout: Layout, asked: Mark, answer: Mark, end: int) -> Found:
    question = question_range(layout.text, asked.content, asked.stop or answer.start)
    if question is None:
        return Found(asked.start, None)
    return Found(asked.start, question, answer_range(layout, answer.content, end, answer.emphasis))


def _belong(asked: Mark, answer: Mark) -> bool:
    """Whether two labels are of one pair: "A." answers "Q." only, a number its own number."""
    same = not asked.number or not answer.number or asked.number == answer.number
    near = answer.start - asked.content <= LONGEST_QUESTION
    return same and near and (answer.style != "A." or asked.style == "Q.")


def _end(layout: Layout, marks: Sequence[Mark], index: int, level: int) -> int:
    """Where the answer of `marks[index]` ends: at the next question, rule or heading not below its own."""
    for mark in (marks[place] for place in range(index + 1, len(marks))):
        if mark.kind == "question" or (mark.kind == "break" and level in (0, MINOR)):
            return mark.start
        if mark.kind == "heading" and (mark.level <= level or not level):
            return mark.start
        if mark.kind == "end" and mark.level <= level:
            return mark.start
    return len(layout.text)


def _with_implied(layout: Layout, marks: Sequence[Mark]) -> Iterator[Mark]:
    """The marks in order, with a question mark for each unlabelled question above an answer's label."""
    above = 0  # where the region begins in which such a question may stand
    waiting = False
    pending: list[Mark] = []
    for mark in marks:
        if mark.kind == "answer" and not waiting:
            implied = _implied(layout, pending, above, mark)
            if implied:
                pending = [other for other in pending if other.start != implied.start]
                pending.append(implied)
                pending.sort(key=lambda other: other.start)
        if mark.kind in ("question", "answer"):
            yield from pending
            yield mark
            pending, waiting, above = [], mark.kind == "question", mark.content
        else:
            waiting = waiting and mark.kind not in ("heading", "break")
            pending.append(mark)
    yield from pending


def _implied(layout: Layout, marks: Sequence[Mark], above: int, answer: Mark) -> Mark | None:
    """The question of an answer label that has none: an item or heading right above, or a line that asks."""
    lines = [line for line in lines_between(layout, above, answer.start) if line.kind != "end"]
    while lines and lines[-1].kind == "blank":
        lines.pop()
    if not lines or answer.start != layout.lines[answer.line].start:
        return None
    marks = [mark for mark in marks if mark.kind != "end"]
    last = marks[-1] if marks else None
    line, near = lines[-1], lines[max(0, len(lines) - IMPLIED_LINES)].start
    if last and last.start >= {"item": near, "heading": line.start}.get(last.kind, answer.start):
        return _above(layout, marks)
    words = layout.text[line.start : line.end].strip(" \t*_")
    if line.kind != "text" or not words.endswith(("?", "？")) or (last and last.start >= line.start):
        return None
    while len(lines) > 1 and lines[-2].kind == "text" and lines[-2].start > above:
        lines.pop()  # the whole paragraph, if it stands apart from the answer before
    apart = above == 0 or (len(lines) > 1 and lines[-2].kind == "blank")
    first = lines[-1] if apart else line
    return Mark("question", answer.line, first.start, first.start)


def _above(layout: Layout, marks: Sequence[Mark]) -> Mark | None:
    """The item or heading above an answer's label as its question; not in a list of questions and its key."""
    last = marks[-1]
    if last.kind == "heading":
        asks = may_ask(layout.text[last.content : last.stop].strip(" *_"))
        return replace(last, kind="question", style="title") if asks else None
    earlier = [mark for mark in marks[:-1] if mark.kind == "item" and mark.style == last.style]
    if earlier and int(earlier[-1].number) == int(last.number) - 1 and not _told(layout, earlier[-1], last):
        return None
    return replace(last, kind="question", number="")


def _told(layout: Layout, item: Mark, following: Mark) -> bool:
    """Whether an item says more than its question."""
    text = layout.text[item.content : following.start].strip()
    return not text.endswith(("?", "？")) and ("?" in text or "？" in text)
