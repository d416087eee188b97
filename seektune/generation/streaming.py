"""Tokens to text while they come, never half a character and never past a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"  # what a decoder makes of bytes that are no character, or not yet


class TextStream:
    """The text of one answer as its tokens come; special tokens are left out.

    What ends in an unfinished character, or might be the beginning of a stop string, is held back. Only the
    tokens since the piece before last are decoded again: decoders treat the very first token of a text
    differently (a leading space).
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.stopped = False  # a stop string was met: no text comes after it
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._context: list[int] = []  # tokens already shown, kept to decode the next ones
        self._shown = ""  # their text
        self._new: list[int] = []
        self._held = ""

    def push(self, token: int) -> str:
        """The text that is certain after one more token."""
        self._new.append(token)
        text = decode(self._tokenizer, self._context + self._new)
        if len(text) <= len(self._shown) or text.endswith(_BROKEN):
            return ""
        piece = text[len(self._shown) :]
        self._context, self._new = self._new, []
        self._shown = decode(self._tokenizer, self._context)
        return self._until_stop(piece)

    def finish(self) -> str:
        """The rest, once no token follows."""
        rest = decode(self._tokenizer, self._context + self._new)[len(self._shown) :]
        piece = self._until_stop(rest)
        held, self._held = self._held, ""
        return piece + held

    def _until_stop(self, piece: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return piece
        text = self._held + piece
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def decode(tokenizer: Any, ids: list[int]) -> str:
    """Text of `ids` without special tokens, spaces as they are."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
