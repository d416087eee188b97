"""One line of the doctor's report, and the page the lines make: ASCII, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

NAME, FOUND = 16, 11
"""Columns of the names, and those that a short finding fills, so that the notes behind them align."""


class Check(NamedTuple):
    """What was looked at, what was found, and what that means or what to do about it."""

    name: str
    found: str
    note: str = ""
    fine: bool = True
    value: int | None = None  # what `found` says, as a number: bytes, or how many

    def to_json(self) -> dict[str, Any]:
        """Plain values under the same keys in every check; its name is the key it is found under."""
        return {key: value for key, value in self._asdict().items() if key != "name"}


def page(sections: Mapping[str, Sequence[Check]], width: int = 80) -> Iterator[tuple[str, bool]]:
    """Each line, and whether what it says is fine; one that is not begins with an exclamation mark."""
    for title, checks in sections.items():
        yield title, True
        for check in checks:
            yield from ((line, check.fine) for line in _lines(check, width))
        yield "", True


def _lines(check: Check, width: int) -> Iterator[str]:
    """Name, what was found, the note behind it; where the line would be too long, the note goes below."""
    mark = " " if check.fine else "!"
    line = f"{mark} {check.name:<{NAME}} {check.found}"
    joined = f"{line:<{NAME + FOUND + 3}}  {check.note}".rstrip()
    if len(joined) <= width and "\n" not in check.note:
        yield joined
        return
    yield line
    indent = " " * (NAME + 3)
    for part in check.note.splitlines():
        yield from textwrap.wrap(
            part,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
