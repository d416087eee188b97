"""Pieces of text become token ids, and pieces with weights become one sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seektune.data.templates.words import Words, word_encoder
from seektune.errors import DataError
from seektune.types import IGNORE, Sample

Ids = Sequence[int] | NDArray[np.int32]
Encode = Callable[[list[list[str]]], Sequence[Sequence[Ids]]]
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


def sample_of(row_id: str, ids: Sequence[Ids], weights: Sequence[float]) -> Sample | DataError:
    """One sample of consecutive pieces; those of weight zero have no targets."""
    made = arrays_of(row_id, ids, weights)
    return made if isinstance(made, DataError) else listed(made)


def arrays_of(row_id: str, ids: Sequence[Ids], weights: Sequence[float]) -> Sample | DataError:
    """`sample_of` with arrays in place of tuples, for many."""
    # An empty list counts as float64, hence the casting.
    tokens = np.concatenate([np.empty(0, np.int32), *ids], dtype=np.int32, casting="unsafe")
    if len(tokens) < 2:
        return DataError(f"{row_id}: a row of {len(tokens)} token has nothing to predict")
    targets = np.full(len(tokens), IGNORE, np.int32)
    start = 0
    for piece, weight in zip(ids, weights, strict=True):
        end = start + len(piece)
        if weight:
            targets[start:end] = tokens[start:end]
        start = end
    different = {weight for weight in weights if weight}
    if len(different) < 2:
        return Sample(tokens[:-1], targets[1:], row_id, next(iter(different), 1.0))
    return Sample(tokens[:-1], targets[1:], row_id, np.repeat(weights, [len(piece) for piece in ids])[1:])


def listed(sample: Sample) -> Sample:
    """The sample with tuples in place of arrays."""
    ids, targets, weight = (np.asarray(v) for v in (sample.input_ids, sample.targets, sample.weight))
    each = tuple(weight.tolist()) if weight.ndim else float(weight)
    return Sample(tuple(ids.tolist()), tuple(targets.tolist()), sample.row_id, each)


def _apart(tokenizer: Any, words: Words | None, rows: list[list[str]]) -> list[list[Ids]]:
    ids = iter(_batch(tokenizer, words, list(chain.from_iterable(rows))))
    return [[next(ids) for _ in row] for row in rows]


def _batch(tokenizer: Any, words: Words | None, texts: list[str]) -> Sequence[Ids]:
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
