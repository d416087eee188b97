"""A document as lines with their kind and place: what pairing reads, whatever it was written in."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["text", "blank", "code", "heading", "break", "end", "row"]

MINOR = 7
"""Level of a heading that is only a bold line, a term of a definition list or a summary."""

_FENCE = re.compile(r"\s*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}(?!.*`)|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?=\s|$)[ \t]*(.*?)(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_LISTED = re.compile(r" {0,3}(?:[-*+>]|\d+[.)])(?:\s|$)")
_BREAK = re.compile(r" {0,3}([-*_=—─~])(?:[ \t]*\1){2,}[ \t]*$")
_BOLD = re.compile(r" {0,3}(\*\*|__)(?=\S)(.*[?？]\1|.*\1[ \t]*[?？])[ \t]*$")
_SUMMARY = re.compile(r"\s*(?:<details\b[^>]*>\s*)?<summary\b[^>]*>(.*?)</summary>")
_FRONT_MATTER_END = re.compile(r"\n(?:---|\.\.\.)[ \t]*\r?(?:\n|\Z)")
_DELIMITER = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")


@dataclass(frozen=True, slots=True)
class Line:
    """One line, `text[start:end]`; offsets are into `Layout.text`.

    `words` is the range of a heading's own text; `cells` are the ranges of a table row's. An `end` closes a
    list or a definition in HTML: it ends what a heading of its level or a deeper one began.
    """

    start: int
    end: int
    kind: Kind
    level: int = 0
    words: tuple[int, int] = (0, 0)
    cells: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A document's text and its lines in order.

    `places` are the ranges of the lines in the file where `text` is not the file's own (HTML), else empty.
    """

    text: str
    lines: tuple[Line, ...]
    places: tuple[tuple[int, int], ...] = ()

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The range of the file that `text[start:end]` was read from; in HTML that of its whole lines."""
        if not self.places:
            return start, end
        first = bisect_right(self.lines, start, key=lambda line: line.start) - 1
        last = bisect_right(self.lines, max(start, end - 1), key=lambda line: line.start) - 1
        return self.places[first][0], self.places[last][1]


def lay_out(text: str, markdown: bool) -> Layout:
    """The lines of a plain text, or of Markdown: there headings and tables count too."""
    lines = list(_plain_lines(text))
    return Layout(text, tuple(_marked_up(text, lines) if markdown else lines))


def _plain_lines(text: str) -> Iterator[Line]:
    """Lines as text, blank, break, or code (fenced)."""
    fence, start = "", 0
    for raw in text.split("\n"):
        end = start + len(raw.removesuffix("\r"))
        opened = _FENCE.match(text, start, end)
        if fence:
            if opened and opened[1].startswith(fence) and not text[opened.end() : end].strip():
                fence = ""
            yield Line(start, end, "code")
        elif opened:
            fence = opened[1]
            yield Line(start, end, "code")
        elif not raw.strip():
            yield Line(start, end, "blank")
        else:
            yield Line(start, end, "break" if _BREAK.match(text, start, end) else "text")
        start += len(raw) + 1


def _marked_up(text: str, lines: Sequence[Line]) -> list[Line]:
    """The lines with Markdown's headings, tables, front matter and comments."""
    out = _without_asides(text, lines)
    for index, line in enumerate(out):
        if line.kind != "text":
            continue
        before = out[index - 1].kind if index else "blank"
        after = out[index + 1] if index + 1 < len(out) else None
        if heading := _heading(text, line):
            out[index] = heading
        elif before == "row":
            out[index] = _row(text, line) if "|" in text[line.start : line.end] else line
        elif after and before != "text" and (under := _underlined(text, line, after)):
            out[index : index + 2] = [under]
        elif after and _DELIMITER.match(text, after.start, after.end):
            head, rule = _row(text, line), _row(text, after)
            if len(head.cells) == len(rule.cells) > 1:
                out[index], out[index + 1] = head, replace(rule, cells=())
    return out


def _without_asides(text: str, lines: Sequence[Line]) -> list[Line]:
    """The same lines, with front matter and comments opaque as code is."""
    out, closing = list(lines), ""
    if text[: lines[0].end].rstrip() == "---" and _FRONT_MATTER_END.search(text):
        closing = "---"
    for index, line in enumerate(lines):
        raw = text[line.start : line.end]
        if not closing and line.kind == "text" and raw.lstrip().startswith("<!--"):
            closing = "-->"
        if closing:
            out[index] = replace(line, kind="code")
            if closing == "-->":
                closing = "" if closing in raw else closing
            elif index and raw.rstrip() in ("---", "..."):
                closing = ""
    return out


def _heading(text: str, line: Line) -> Line | None:
    """A heading that one line shows to be one; a closed `<details>` ends what its summary began."""
    if atx := _ATX.match(text, line.start, line.end):
        return replace(line, kind="heading", level=len(atx[1]), words=atx.span(2))
    if bold := _BOLD.match(text, line.start, line.end):
        return replace(line, kind="heading", level=MINOR, words=bold.span(2))
    raw = text[line.start : line.end]
    if "<summary" in raw and (summary := _SUMMARY.match(text, line.start, line.end)):
        return replace(line, kind="heading", level=MINOR, words=summary.span(1))
    return replace(line, kind="end", level=MINOR) if raw.strip() == "</details>" else None


def _underlined(text: str, line: Line, after: Line) -> Line | None:
    """A heading underlined with = or -; a list item above a rule is none."""
    under = _SETEXT.match(text, after.start, after.end)
    if under is None or _LISTED.match(text, line.start, line.end):
        return None
    level = 1 if under[1][0] == "=" else 2
    return Line(line.start, after.end, "heading", level, (line.start, line.end))


def _row(text: str, line: Line) -> Line:
    """A table row; a bar after a backslash belongs to its cell."""
    start, end = line.start, line.end
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start and text[end - 1] == "|" and text[end - 2 : end - 1] != "\\":
        end -= 1
    start += len(text[start:end]) - len(text[start:end].lstrip())
    start += text[start:end].startswith("|")
    cells, edge = [], start
    for bar in re.finditer(r"(?<!\\)\|", text[start:end]):
        cells.append((edge, start + bar.start()))
        edge = start + bar.end()
    return replace(line, kind="row", cells=(*cells, (edge, end)))
