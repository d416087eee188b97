"""Pieces of text become token ids, and pieces with weights become one sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, chain, repeat
from typing import Any

from seektune.data.templates.words import Words, word_encoder
from seektune.errors import DataError
from seektune.types import IGNORE, Sample

Encode = Callable[[list[list[str]]], list[list[list[int]]]]
"""Rows of text pieces → rows of the pieces' token ids."""

_JOINTS = ((":", " yes"), ("\n", "yes"), ("。", "好的"), (">", "是"))


def encoder(tokenizer: Any, *, many: bool = False) -> Encode:
    """The fastest encoder of pieces that gives what encoding growing prefixes of the text gives.

    Byte-level tokenizers encode a piece alone as after another; others (SentencePiece puts a blank before
    every text) need the text in front of it. For `many` rows words are remembered where that is exact.
    """
    if all(
        _one(tokenizer, left + right) == _one(tokenizer, left) + _one(tokenizer, right)
        for left, right in _JOINTS
    ):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        words = word_encoder(backend) if many and backend is not None else None
        return lambda rows: _apart(tokenizer, words, rows)
    return lambda rows: [_growing(tokenizer, row) for row in rows]


def sample_of(row_id: str, ids: Sequence[Sequence[int]], weights: Sequence[float]) -> Sample | DataError:
    """One sample of consecutive pieces; those of weight zero have no targets."""
    tokens: list[int] = []
    targets: list[int] = []
    for piece, weight in zip(ids, weights, strict=True):
        tokens += piece
        targets += piece if weight else [IGNORE] * len(piece)
    if len(tokens) < 2:
        return DataError(f"{row_id}: a row of {len(tokens)} token has nothing to predict")
    tokens.pop()
    del targets[0]
    different = {weight for weight in weights if weight}
    if len(different) < 2:
        return Sample(tuple(tokens), tuple(targets), row_id, next(iter(different), 1.0))
    each = chain.from_iterable(repeat(weight, len(piece)) for piece, weight in zip(ids, weights, strict=True))
    return Sample(tuple(tokens), tuple(targets), row_id, tuple(each)[1:])


def _apart(tokenizer: Any, words: Words | None, rows: list[list[str]]) -> list[list[list[int]]]:
    ids = iter(_batch(tokenizer, words, list(chain.from_iterable(rows))))
    return [[next(ids) for _ in row] for row in rows]


def _batch(tokenizer: Any, words: Words | None, texts: list[str]) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Padding and truncation asked for once stay set in the backend; transformers' own call resets them.
    if backend is None or backend.padding is not None or backend.truncation is not None:
        return [_one(tokenizer, text) for text in texts]
    if words is not None:
        return words(texts)
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _growing(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Each piece's tokens are what its text adds to those before, or its own where the joint would merge."""
    found: list[list[int]] = []
    ids: list[int] = []
    for piece, text in zip(texts, accumulate(texts), strict=True):
        whole = _one(tokenizer, text)
        found.append(whole[len(ids) :] if whole[: len(ids)] == ids else _one(tokenizer, piece))
        ids = ids + found[-1]
    return found


def _one(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
