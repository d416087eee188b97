"""HTML as the lines of a document: what a reader sees, each line with its place in the source."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import accumulate

from seektune.data.documents.blocks import Block, assembled, shifted
from seektune.data.documents.lines import MINOR, Kind, Layout

_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "button", "caption", "center", "dd", "details",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4",
    "h5", "h6", "header", "hr", "html", "legend", "li", "main", "ol", "p", "pre", "section", "summary",
    "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
})  # fmt: skip
_APART = frozenset({
    "blockquote", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "p", "pre", "section",
    "article", "table", "summary",
})  # fmt: skip
_UNREAD = frozenset({
    "aside", "footer", "head", "iframe", "nav", "noscript", "object", "script", "select", "style",
    "svg", "template", "textarea", "title",
})  # fmt: skip
_CONTAINERS = frozenset({"article", "div", "section", "table"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)} | {"dt": MINOR, "summary": MINOR}
_SPACE = re.compile(r"[ \t\r\n\f\xa0]+")


@dataclass(slots=True)
class _Row:
    """A table row being read: where its lines and those of its open cell begin, and its finished cells."""

    begin: int
    first: int
    cell: int | None = None
    cells: list[str] = field(default_factory=list)
    rule: bool = False  # the first of its table
    layout: bool = False  # holds headings or tables: it arranges the page


def lay_out_html(source: str) -> Layout:
    """The lines a reader of the page sees; navigation, scripts and what else is not text are left out.

    Lists are written as Markdown's, `<pre>` as fenced code, rows with bars, raised and lowered digits as
    Unicode's, so that an answer keeps what the page said.
    """
    page = _Page(source)
    closed = source.rfind(">") + 1  # html.parser takes quadratic time on what follows the last tag
    page.feed(source[:closed])
    page.close()
    page.data(html.unescape(source[closed:]), closed)
    page.flush(len(source))
    return assembled(page.blocks)


class _Page(HTMLParser):
    """Collects `blocks` while the source is fed."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._starts = list(accumulate((len(line) + 1 for line in source.split("\n")), initial=0))
        self._words: list[str] = []
        self._begin = 0
        self._apart = False
        self._unread: list[str] = []  # the open part that is not read, once for each level of nesting
        self._heading = 0
        self._pre = 0
        self._bold = 0
        self._only_bold = True
        self._shift: list[str] = []  # open sup and sub
        self._lists: list[int] = []  # the number of each open list's next item; 0: bullets
        self._marker = ""
        self._rows: list[_Row | None] = []  # the open row of each open table
        self._containers: list[tuple[str, int]] = []  # open ones, and the level of the first heading in each
        self._told = False  # words have come since the last heading
        self._fresh = False  # a table has begun and no row yet

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unread and tag != "body":
            self._unread += [tag] if tag == self._unread[0] else []
            return
        here = self._here()
        if tag in _UNREAD:
            self.flush(here)
            self._unread = [tag]
        elif tag in ("sup", "sub"):
            self._shift.append(tag)
        elif tag in ("b", "strong"):
            self._bold += 1
        elif tag == "br":
            self._words.append("\n") if self._pre else self.flush(here)
        elif tag in _BLOCKS:
            self._open(tag, here)

    def handle_endtag(self, tag: str) -> None:
        if self._unread:
            if tag == self._unread[0]:
                self._unread.pop()
            return
        if tag in ("sup", "sub"):
            self._shift = self._shift[:-1]
        elif tag in ("b", "strong"):
            self._bold = max(0, self._bold - 1)
        elif tag in _BLOCKS:
            self._close(tag, self._here())

    def handle_data(self, data: str) -> None:
        self.data(data, self._here())

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """`<![…` is a comment; the library's own reading of it raises AssertionError."""
        return self.parse_bogus_comment(i)

    def data(self, data: str, here: int) -> None:
        """Text of the page that begins at `here`."""
        if self._unread or not data:
            return
        if not self._words and not self._pre:
            here += len(data) - len(data.lstrip())
            data = data.lstrip()
        if not data:
            return
        if not self._words:
            self._begin, self._only_bold = here, True
        if data.strip() and not self._bold:
            self._only_bold = False
        self._words.append(shifted(data, self._shift[-1]) if self._shift else data)

    def flush(self, end: int) -> None:
        """Ends the line being read; one that holds nothing leaves no trace."""
        text = "".join(self._words)
        self._words = []
        text = text.strip("\n") if self._pre else _SPACE.sub(" ", text).strip()
        if not text.strip():
            return
        bold = self._only_bold and not self._pre and text.endswith(("?", "？"))
        level = self._heading or (MINOR if bold and not self._rows else 0)
        kind: Kind = "heading" if level else "code" if self._pre else "text"
        if kind == "heading":
            self._marker = ""
        else:
            text = self._indented(f"```\n{text}\n```" if self._pre else text)
        self._add(text, kind, (self._begin, end), level)

    def _here(self) -> int:
        line, column = self.getpos()
        return self._starts[line - 1] + column

    def _add(self, text: str, kind: Kind, place: tuple[int, int], level: int = 0) -> None:
        self.blocks.append(Block(text, kind, place, level, self._apart))
        self._apart = False
        self._told = kind != "heading" and (self._told or any(map(str.isalnum, text)))
        if kind == "heading":
            self._contain(level)
            if self._rows and (row := self._rows[-1]):
                row.layout = True

    def _contain(self, level: int) -> None:
        """Notes a heading in the innermost container."""
        if self._containers:
            tag, highest = self._containers[-1]
            self._containers[-1] = (tag, min(level, highest or level))

    def _leave(self, tag: str, here: int) -> None:
        """Ends what a container's headings began, unless it holds nothing but the title."""
        if tag not in (name for name, _ in self._containers):
            return
        while self._containers:
            name, level = self._containers.pop()
            if level and (self._told or name == "table"):
                self.blocks.append(Block("", "end", (here, here), level))
            elif level:
                self._contain(level)
            if name == tag:
                return

    def _indented(self, text: str) -> str:
        if not self._lists:
            return text
        indent = " " * 4 * (len(self._lists) - 1)
        marker, self._marker = self._marker, ""
        return indent + marker + text if marker else f"{indent}   {text}"

    def _open(self, tag: str, here: int) -> None:
        self.flush(here)
        self._apart = self._apart or tag in _APART
        if tag in _CONTAINERS:
            self._containers.append((tag, 0))
        if tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag == "dd":
            self._heading = 0
        elif tag == "pre":
            self._pre = 1
        elif tag in ("ol", "ul"):
            self._lists.append(1 if tag == "ol" else 0)
            self._apart = self._apart or len(self._lists) == 1
        elif tag == "li" and self._lists:
            number = self._lists[-1]
            self._marker = f"{number}. " if number else "- "
            self._lists[-1] += 1 if number else 0
        elif tag == "hr":
            self._add("---", "break", (here, here))
        elif tag == "body":
            self._unread = []
        elif tag == "table":
            if self._rows and (outer := self._rows[-1]):
                outer.layout = True
            self._rows.append(None)
            self._fresh = True
        elif tag == "tr" and self._rows:
            self._end_row(here)
            self._rows[-1] = _Row(here, len(self.blocks), rule=self._fresh)
            self._fresh = False
        elif tag in ("td", "th") and self._rows and (row := self._rows[-1]):
            self._end_cell(row)
            row.cell = len(self.blocks)

    def _close(self, tag: str, here: int) -> None:
        self.flush(here)
        self._apart = self._apart or tag in _APART
        if tag in _HEADINGS:
            self._heading = 0
        elif tag == "pre":
            self._pre = 0
        elif tag in ("ol", "ul") and self._lists:
            self._lists.pop()
            self._marker = ""
            if not self._lists:
                self._apart = True
                self.blocks.append(Block("", "end", (here, here), MINOR + 1))
        elif tag in ("dl", "details"):
            self.blocks.append(Block("", "end", (here, here), MINOR))
        elif tag in ("td", "th") and self._rows and (row := self._rows[-1]):
            self._end_cell(row)
        elif tag in ("tr", "table") and self._rows:
            self._end_row(here)
            if tag == "table":
                self._rows.pop()
        if tag in _CONTAINERS:
            self._leave(tag, here)

    def _end_cell(self, row: _Row) -> None:
        if row.cell is not None:
            row.cells.append("\n".join(block.text for block in self.blocks[row.cell :]))
            row.cell = None

    def _end_row(self, here: int) -> None:
        row, self._rows[-1] = self._rows[-1], None
        if row is None:
            return
        self._end_cell(row)
        if row.layout or len(row.cells) < 2 or not any(row.cells):
            return
        del self.blocks[row.first :]
        text = "".join(f"| {cell} " for cell in row.cells) + "|"
        self.blocks.append(Block(text, "row", (row.begin, here), apart=row.rule, cells=tuple(row.cells)))
        if row.rule:
            rule = "| --- " * len(row.cells) + "|"
            self.blocks.append(Block(rule, "row", (here, here)))
