"""What a reader sees of a page, and whether its tags are in order."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta"}


class Balanced(HTMLParser):
    """Fails on a tag that closes another's; collects the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def text_of(path: Path) -> str:
    page = Balanced()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return " ".join(" ".join(page.words).split())
