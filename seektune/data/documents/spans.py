"""Ranges of a document: what reads as a question, and where a question and an answer begin and end."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from seektune.data.documents.lines import Layout, Line

Range = tuple[int, int]

_WORD = re.compile(r"[^\W_]")
_HAN = re.compile(r"[\u3400-\u9fff]")
_LEAD = re.compile(
    r"(?:\s|[*_]|<a\b[^>]*>|</a>|[-+•]\s|\d{1,3}(?:\.\d{1,3})*(?:[、)）．]|\.(?!\d))|\d{1,3}(?:\.\d{1,3})+(?=\s)"
    r"|[一二三四五六七八九十]{1,3}、|[(（]\d{1,3}[)）])*"
)
_TRAIL = re.compile(r"(?:\s|[*_]|</a>|\{#[^{}]*\}|¶|(?<=[?？])#)+\Z")
_LINKED = re.compile(r"\[(.+)\]\([^()\s]*\)\Z")
_REFERENCE = re.compile(r" {0,3}\[[^\]]+\]:\s")
_SECTION = re.compile(
    r"\s*(?:第[一二三四五六七八九十\d]{1,4}[章节篇]|[一二三四五六七八九十]{1,3}、|(?:Part|Chapter) \w+)"
    r"[^。！？.!?;；\n]{0,40}\Z"
)
_STARTS_ASKING = re.compile(
    r"(?:what|what's|why|how|when|where|who|whom|whose|which|is|are|was|were|do|does|did|can|could|should|would"
    r"|will|may|must|has|have)\b|如何|怎样|怎么|为什么|为何|什么|何为|何谓|哪些|谁",
    re.I,
)
_ASKS_SOMEWHERE = re.compile(
    r"如何|怎么|怎样|什么|为何|是否|能否|可否|能不能|可不可以|哪些|哪个|多久|多少|吗"
)
_ASKS = re.compile(
    r"(?:什么是|如何|怎样|怎么|为什么|为何|何为|何谓).{2,}|.{2,}(?:吗|怎么办|是什么|为什么|有哪些|是多少|怎么回事)"
    r"|(?:what (?:is|are)|how (?:to|do|does|can|should)) \S.*",
    re.I,
)
_INVITES = re.compile(  # "Still have questions?", "Need help?": no question to answer
    r"(?:(?:still|any|got|have|do you|you|need|want|ready|looking|interested|a|more|other|to|with|for)\s+)+"
    r"(?:questions?|help|more|started?|issues?|problems?|feedback|learn more)\b[^?]{0,12}\?",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A question, an answer or both, as ranges of `Layout.text`; `start` is where its mark begins."""

    start: int
    question: Range | None
    answer: Range | None = None


def has_words(text: str, start: int, end: int) -> bool:
    """Whether there is a letter or a digit between the two."""
    return _WORD.search(text, start, end) is not None


def is_question(words: str) -> bool:
    """Whether a heading asks, by its question mark or by words that leave no doubt.

    An invitation ("Need help?") and a question of one or two words, which needs its context, are none.
    """
    if words.rstrip("\"'”’)）」』").endswith(("?", "？")):
        long_enough = len(words.split()) >= 3 or len(_HAN.findall(words)) >= 3
        return long_enough and not _INVITES.fullmatch(words)
    return _ASKS.fullmatch(words) is not None


def may_ask(words: str) -> bool:
    """Whether words ask where questions are expected: in a FAQ, or right before an answer's label."""
    asks = _STARTS_ASKING.match(words) or _ASKS_SOMEWHERE.search(words)
    return is_question(words) or words.endswith(("?", "？")) or asks is not None


def question_range(text: str, start: int, end: int) -> Range | None:
    """The words of a question without numbering, emphasis, anchors and link marks; None without words."""
    lead = _LEAD.match(text, start, end)
    start = lead.end() if lead else start
    if trail := _TRAIL.search(text[start:end]):
        end = start + trail.start()
    if linked := _LINKED.match(text, start, end):
        start, end = linked.span(1)
    return (start, end) if has_words(text, start, end) else None


def answer_range(layout: Layout, start: int, end: int, emphasis: str = "") -> Range | None:
    """The answer between two places, verbatim.

    Blank edges, closing rules, link targets and the title of what follows are no part of it.
    """
    text = layout.text
    for line in reversed(lines_between(layout, start, end)):
        title = line.kind == "text" and end < len(text) and _is_title(layout, line, start, end)
        if line.kind == "break" or title or _REFERENCE.match(text, line.start, line.end):
            end = max(start, line.start)
        elif line.kind not in ("blank", "end"):
            break
    end -= len(text[start:end]) - len(text[start:end].rstrip())
    if emphasis and text.endswith(emphasis, start, end) and text.count(emphasis, start, end) % 2:
        end -= len(emphasis)  # **A: all of it**
    words = text[start:end]
    first = len(words) - len(words.lstrip())
    line_start = words.rfind("\n", 0, first) + 1
    indented = line_start and first - line_start >= 4  # a code block keeps its first indent
    start += line_start if indented else first
    return (start, end) if has_words(text, start, end) else None


def lines_between(layout: Layout, start: int, end: int) -> Sequence[Line]:
    """The lines that begin between the two."""
    first = bisect_left(layout.lines, start, key=lambda line: line.start)
    return layout.lines[first : bisect_left(layout.lines, end, key=lambda line: line.start)]


def _is_title(layout: Layout, line: Line, start: int, end: int) -> bool:
    """Whether an answer's last line is the title of what follows: the only one of its kind, and apart."""
    lines = lines_between(layout, start, end)
    titles = [other for other in lines if _SECTION.match(layout.text, other.start, other.end)]
    before = lines.index(line) - 1
    return titles == [line] and before >= 0 and lines[before].kind == "blank"
