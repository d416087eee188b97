"""A chat template, run once per shape of conversation instead of once per conversation.

A shape is everything but the texts: roles, tool calls, tools, what is empty, whether the last turn reasons.
The template is run on marks in place of texts, which gives its words with holes; then on awkward texts, and
the holes filled with these must say the same. A shape that does not, and a text that holds one of the
template's own marks, are left to the template itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seektune.errors import DataError
from seektune.types import Example, Message, ToolCall

PROBE = "\ue000"
"""Stands for a text to find again: private use, so hardly in data, and in no template."""

Piece = tuple[str, int | None]
"""Consecutive text of a row, and the index of the assistant message it trains; None: it is only read."""

_HOLE = "\ue001"  # not PROBE: the writer looks for that itself
_HOLES = re.compile(_HOLE + r"(\d+)" + _HOLE)
_REASONED = re.compile(r"(<think>\n?|)((?!\n).+?)</think>(.+)", re.DOTALL)
_AWKWARD = "\"'&amp; {{ x }} {0} %s \\n <b>É①，\n\n    9 "
_SHAPES = 4096  # of one file with tools of its own in every row; then we start anew


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A template's words for one shape: format strings with a numbered hole for each text."""

    formats: tuple[Piece, ...]
    strips: bool  # blank ends of texts are lost: such texts are not for this skeleton

    def fill(self, texts: Sequence[str]) -> list[Piece]:
        """The pieces of the row that has these texts."""
        return [(words.format(*texts), index) for words, index in self.formats]


class Skeletons:
    """`pieces(example)` is `write(example)`, mostly without running the template.

    `marks` are strings the template may look for in a text.
    """

    def __init__(self, write: Callable[[Example], list[Piece]], marks: set[str]) -> None:
        self._write = write
        self._special = re.compile("|".join(map(re.escape, sorted(marks | {"<think>", "</think>"}))))
        self._known: dict[Any, Skeleton | None] = {}

    def pieces(self, example: Example) -> list[Piece]:
        """The example's pieces; DataError as `write` raises it."""
        shape, texts = _taken_apart(example)
        if shape in self._known:
            skeleton = self._known[shape]
        else:
            skeleton = None
            self._meet(shape)
        if skeleton is None or not self._fits(skeleton, texts):
            return self._write(example)
        return skeleton.fill(texts)

    def _meet(self, shape: Any) -> None:
        """A shape seen for the second time is worth a skeleton."""
        if len(self._known) > _SHAPES:
            self._known.clear()
        first = ("first", shape)
        if first not in self._known:
            self._known[first] = None
        else:
            self._known[shape] = self._built(shape)

    def _fits(self, skeleton: Skeleton, texts: Sequence[str]) -> bool:
        for text in texts:
            if ("<" in text and self._special.search(text)) or PROBE in text or _HOLE in text:
                return False
            if skeleton.strips and text != text.strip():
                return False
        return True

    def _built(self, shape: Any) -> Skeleton | None:
        count = _holes(shape)
        marks = [f"{_HOLE}{n}{_HOLE}" for n in range(count)]
        try:
            skeleton = _with_holes(self._write(_put_together(shape, marks)))
            for blank, strips in ((" \n", False), ("", True)):
                awkward = [f"{blank}{n}{_AWKWARD}{n}{blank}" for n in range(count)]
                if skeleton.fill(awkward) == self._write(_put_together(shape, awkward)):
                    return Skeleton(skeleton.formats, strips)
        except DataError:
            pass  # `write` will say it of the row itself
        return None


def _taken_apart(example: Example) -> tuple[Any, list[str]]:
    """(shape, texts) of an example."""
    texts: list[str] = []
    turns = []
    final = len(example.messages) - 1
    for index, message in enumerate(example.messages):
        content, role, calls = message.content, message.role, message.tool_calls
        reasoned = None
        if index == final and "</think>" in content and (match := _REASONED.fullmatch(content)):
            reasoned = match[1]
            texts += match[2], match[3]
        elif content:
            texts.append(content)
        for call in calls:
            texts += call.name, call.arguments
        weighted = message.weight is not None and role != "assistant" and message.weight
        turns.append((role, content != "", reasoned, len(calls), weighted))
    return (example.tools, tuple(turns)), texts


def _holes(shape: Any) -> int:
    return sum(written + (reasoned is not None) + 2 * calls for _, written, reasoned, calls, _ in shape[1])


def _put_together(shape: Any, texts: Sequence[str]) -> Example:
    """The example that `_taken_apart` takes apart into these."""
    tools, turns = shape
    rest = iter(texts)
    messages = []
    for role, written, reasoned, calls, weighted in turns:
        content = next(rest) if written else ""
        if reasoned is not None:
            content = f"{reasoned}{content}</think>{next(rest)}"
        called = tuple(ToolCall(next(rest), next(rest)) for _ in range(calls))
        messages.append(Message(role, content, called, weighted or None))
    return Example(tuple(messages), "shape", tools=tools)


def _with_holes(pieces: Sequence[Piece]) -> Skeleton:
    formats = tuple(
        (_HOLES.sub(r"{\1}", words.replace("{", "{{").replace("}", "}}")), index) for words, index in pieces
    )
    return Skeleton(formats, False)
