"""Tokens to text while they come, never half a character."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

_BROKEN = "\ufffd"  # what a decoder makes of bytes that are no character, or not yet


def text_pieces(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """Pieces of text that join to the decoded whole, special tokens left out.

    A piece is held back while it ends in an unfinished character. Only the tokens since the piece before
    last are decoded again: decoders treat the very first token of a text differently (a leading space).
    """
    ids: list[int] = []
    start = read = 0  # ids[start:read] is shown and serves as left context

    for token in tokens:
        ids.append(token)
        shown, text = decode(tokenizer, ids[start:read]), decode(tokenizer, ids[start:])
        if len(text) > len(shown) and not text.endswith(_BROKEN):
            yield text[len(shown) :]
            start, read = read, len(ids)
    rest = decode(tokenizer, ids[start:])[len(decode(tokenizer, ids[start:read])) :]
    if rest:
        yield rest


def decode(tokenizer: Any, ids: list[int]) -> str:
    """Text of `ids` without special tokens, spaces as they are."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
