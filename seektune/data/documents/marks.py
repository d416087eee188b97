"""Where questions and answers are marked in a document: labels, headings, numbered items."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from seektune.data.documents.lines import Layout, Line

NUMERALS = "一二三四五六七八九十"
_CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"
_WORDS = {
    "question": r"(?:患者|网友|读者|用户|家长)?(?:提问|问题|问)|(?i:question)|[Qq]",
    "answer": r"(?:参考|正确|标准)?答案|(?:医生|专家|大夫|药师)?(?:回答|解答|答复|答)|(?i:answer|ans)|[Aa]",
}
_NUMBER = rf"[#(（]?[ \t]*(?P<number>\d{{1,4}}|[{NUMERALS}]{{1,3}})?[ \t]*[)）]?"
_LABEL = (
    r"[ \t]{0,3}(?:[-*+•][ \t]+|(?:\d{1,3}[.、．)）]|[(（]\d{1,3}[)）])[ \t]*)?(?P<open>[*_]{0,3})"
    rf"(?:[【\[](?P<boxed>WORDS)[】\]][:：]?|(?P<word>WORDS)[ \t]*{_NUMBER}[ \t]*(?P<close>[*_]{{0,3}})"
    r"(?P<sep>[:：]|[.、．)）](?=\s|[^\x00-\x7f]|[*_]))(?P<after>[*_]{0,3}))[ \t]*"
)
_LABELS = {kind: re.compile(_LABEL.replace("WORDS", words)) for kind, words in _WORDS.items()}
_TITLES = {
    kind: re.compile(rf"(?:{words})[ \t]*#?(?P<number>\d{{1,4}}|[{NUMERALS}]{{1,3}})?")
    for kind, words in _WORDS.items()
}
_INLINE = {
    "question": re.compile(  # an answer after a question
        r"(?<=[?？。！!”\"])[ \t]*(?=(?:答案?|回答|解答)[:：])|(?<=[?？])[ \t]+(?=(?:A|Ans|Answer)[:：])"
    ),
    "answer": re.compile(r"(?<=[。！？!?.])[ \t]*(?=问[:：])"),  # a question after an answer
}
_KEY = re.compile(r"[ \t*_]*(?:(?:参考|标准)?答案|(?i:answers|answer key)[:：]?)[ \t*_]*$")
_OPTION_B = re.compile(r"[ \t]*(?:[-*+][ \t]+)?[*_(（]{0,3}B[.:：、．)）]")
_ITEM = re.compile(
    r"(?P<indent> {0,3})(?P<bold>[*_]{0,3})"
    r"(?:(?P<open>[(（])?(?P<digits>\d{1,3})(?:(?P<end>[)）、])|(?P<dot>[.．])(?!\d))"
    rf"|(?P<han>[{NUMERALS}]{{1,3}})、|(?P<circled>[{_CIRCLED}]))[ \t]*"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something at `start`, on `line`, whose own words begin at `content`.

    `stop` ends a heading's words; `level` is that of the heading the mark stands in, or 0; `style` tells
    lists and labels apart; `number` is as written, an item's in digits; `emphasis` was opened before the
    label and not closed in it.
    """

    kind: Literal["question", "answer", "heading", "item", "key", "break", "end"]
    line: int
    start: int
    content: int
    stop: int = 0
    level: int = 0
    number: str = ""
    style: str = ""
    emphasis: str = ""


def marks_of(layout: Layout) -> list[Mark]:
    """Every mark in order; an "A:" that opens a list of options is none."""
    text, lines = layout.text, layout.lines
    out: list[Mark] = []
    options = False  # a line that opens an option B comes before the next question
    for index in reversed(range(len(lines))):
        line = lines[index]
        for mark in reversed(list(_line_marks(text, line, index))):
            if mark.kind == "answer" and mark.style in ("A", "A.") and options:
                continue
            if mark.kind in ("question", "heading", "break"):
                options = False
            out.append(mark)
        if line.kind == "text" and _OPTION_B.match(text, line.start, line.end):
            options = True
    return out[::-1]


def _line_marks(text: str, line: Line, index: int) -> Iterator[Mark]:
    if line.kind == "heading":
        yield _titled(text, line, index)
    elif line.kind == "break":
        yield Mark("break", index, line.start, line.end)
    elif line.kind == "end":
        yield Mark("end", index, line.start, line.end, level=line.level)
    elif line.kind == "text":
        yield from _text_marks(text, line, index)


def _titled(text: str, line: Line, index: int) -> Mark:
    """The mark of a heading, which may be a label or open with one."""
    start, stop = line.words
    words = text[start:stop].strip(" \t*_:：")
    if whole := _TITLES["question"].fullmatch(words):
        return Mark("question", index, line.start, line.end, 0, line.level, whole["number"] or "", "title")
    if whole := _TITLES["answer"].fullmatch(words):
        return Mark("answer", index, line.start, line.end, 0, line.level, whole["number"] or "", "title")
    label = _label(text, start, stop, index)
    if label and label.kind == "question":
        return replace(label, start=line.start, level=line.level)
    return Mark("heading", index, line.start, start, stop, line.level)


def _text_marks(text: str, line: Line, index: int) -> Iterator[Mark]:
    label = _label(text, line.start, line.end, index)
    if label is None:
        if _KEY.match(text, line.start, line.end):
            yield Mark("key", index, line.start, line.end)
        elif item := _ITEM.match(text, line.start, line.end):
            yield _item(item, index)
    while label:
        yield label
        inline = _INLINE[label.kind].search(text, label.content, line.end)
        label = _label(text, inline.end(), line.end, index) if inline else None


def _label(text: str, start: int, end: int, index: int) -> Mark | None:
    """The label that begins at `start`; without a colon only Q, A and numbered English ones count."""
    question = _LABELS["question"].match(text, start, end)
    found = question or _LABELS["answer"].match(text, start, end)
    if found is None:
        return None
    word, colon = found["word"] or found["boxed"], (found["sep"] or ":") in ":："
    if not colon and word not in "QA" and not (found["number"] and len(word) > 1 and word.isascii()):
        return None
    style = word.upper() + ("" if colon else ".") if len(word) == 1 and word.isascii() else word
    opened = "" if found["boxed"] or found["close"] or found["after"] else found["open"]
    kind: Literal["question", "answer"] = "question" if question else "answer"
    return Mark(kind, index, start, found.end(), 0, 0, found["number"] or "", style, opened)


def _item(found: re.Match[str], index: int) -> Mark:
    if found["digits"]:
        number = int(found["digits"])
        style = ("(" if found["open"] else "") + (found["end"] or found["dot"])
    elif found["han"]:
        number, style = _numeral(found["han"]), NUMERALS
    else:
        number, style = _CIRCLED.index(found["circled"]) + 1, _CIRCLED
    style += " " * (len(found["indent"]) // 2)  # a step to the right is a list of its own
    return Mark("item", index, found.start(), found.end(), 0, 0, str(number), style, found["bold"])


def _numeral(text: str) -> int:
    """一 … 九十九; what is no numeral counts as 0."""
    tens, ten, ones = text.rpartition("十")
    digits = {"": 0} | {sign: value + 1 for value, sign in enumerate(NUMERALS[:9])}
    if tens not in digits or ones not in digits:
        return 0
    return (digits[tens] or 1) * 10 + digits[ones] if ten else digits[ones]
