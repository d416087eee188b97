"""Rows that say the same thing twice, and training rows that also stand in the held-out rows.

`Index.add` takes every row once, in order; `duplicates` and `leaks` then name rows by their number in that
order and ask back for the few texts they compare letter by letter. Exact means equal after normalisation;
near means at least `similarity` of the characters equal (Levenshtein), and not all edits in the question or
in what is the row's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seektune.config.data import DedupConfig
from seektune.data.duplicates.comparison import alike, asked_in, question_text, same_answer, text_of
from seektune.data.duplicates.near import candidates
from seektune.data.duplicates.signatures import Signatures
from seektune.types import Row

Ints = NDArray[np.int64]
Texts = Callable[[int], str]

COMMON_SHARE = 0.01
"""A gram in more of the rows than this is boilerplate."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Rows that repeat an earlier one: pairs (kept, dropped), each dropped row once.

    `near` pairs have a `similarity` each, to the kept row itself. `conflicts` are pairs with the same
    question and different answers; they are not dropped. `capped` rows have only fingerprints that very many
    rows share: copies of those with edits may be missed.
    """

    exact: Ints  # (n, 2)
    near: Ints  # (n, 2)
    similarity: NDArray[np.float32]  # (n,)
    conflicts: Ints  # (n, 2)
    capped: int
    compared: int  # pairs of texts compared letter by letter

    @property
    def dropped(self) -> Ints:
        """The numbers of all rows to drop, sorted."""
        return np.sort(np.concatenate([self.exact[:, 1], self.near[:, 1]]))


@dataclass(frozen=True, slots=True)
class Leaks:
    """Training rows whose question stands in the held-out rows: pairs (train, eval), each train row once."""

    exact: Ints  # (n, 2)
    near: Ints  # (n, 2)
    similarity: NDArray[np.float32]  # (n,)
    capped: int
    compared: int

    @property
    def train_rows(self) -> Ints:
        """The numbers of all training rows that leak, sorted."""
        return np.sort(np.concatenate([self.exact[:, 0], self.near[:, 0]]))


class Index:
    """What is remembered of a set of rows: signatures in `folder`, which is this index's alone.

    Held-out rows need no `duplicates`, and without held-out rows training rows need no `leakage`: leaving one
    out saves half of the time.
    """

    def __init__(
        self, folder: Path, config: DedupConfig, *, duplicates: bool = True, leakage: bool = True
    ) -> None:
        self.folder, self.config = folder, config
        self.whole = Signatures(folder / "whole", near=config.near) if duplicates else None
        self.question = Signatures(folder / "question", near=config.near and leakage)

    def __len__(self) -> int:
        self.question.close()
        return self.question.rows

    def add(self, row: Row) -> None:
        """Take the next row."""
        if self.whole is None:
            self.question.add(question_text(row))
        else:
            text = text_of(row)
            self.whole.add(text)
            self.question.add(asked_in(text))

    def duplicates(self, texts: Texts) -> Duplicates:
        """What repeats among the rows; `texts(i)` gives `text_of` of row i again."""
        assert self.whole is not None
        self.whole.close()
        self.question.close()
        hashes = np.asarray(self.whole.hashes)
        root = _first_of_equals(hashes)
        exact = _pairs_of(root)
        conflicts = _conflicts(np.asarray(self.question.hashes), hashes)
        if not self.config.exact:
            root, exact = np.arange(len(root)), exact[:0]
        if not self.config.near:
            return Duplicates(exact, exact[:0], np.empty(0, np.float32), conflicts, 0, 0)
        return self._near(self.whole, texts, root, exact, conflicts)

    def _near(self, whole: Signatures, texts: Texts, root: Ints, exact: Ints, conflicts: Ints) -> Duplicates:
        """Every row goes to the first kept row it is alike, never to one that is itself dropped."""
        kept = (root == np.arange(len(root))) & (np.asarray(whole.lengths) > 0)
        found = candidates(whole, whole, self.config.similarity, kept, kept, self.folder / "near")
        near: list[tuple[int, int]] = []
        similarities: list[float] = []
        contradicting: list[tuple[int, int]] = []
        compared = 0
        text = lru_cache(64)(texts)
        common = partial(whole.common_in, share=COMMON_SHARE)
        hashes = whole.hashes
        for block in found:
            for first, second in block.tolist():
                kept_row = int(root[first])
                if root[second] != second or hashes[kept_row] == hashes[second]:
                    continue
                compared += 1
                similarity = alike(text(kept_row), text(second), self.config.similarity, common)
                if not similarity:
                    continue
                if same_answer(text(kept_row), text(second), self.config.similarity):
                    root[second] = kept_row
                    near.append((kept_row, second))
                    similarities.append(similarity)
                else:
                    contradicting.append((kept_row, second))
        conflicts = np.unique(np.concatenate([conflicts, _array(contradicting)]), axis=0)
        return Duplicates(
            exact, _array(near), np.array(similarities, np.float32), conflicts, found.capped, compared
        )


def leaks(train: Index, held_out: Index, train_texts: Texts, held_out_texts: Texts) -> Leaks:
    """Which training rows ask what a held-out row asks; the texts are `question_text` of a row's number."""
    mine, theirs = train.question, held_out.question
    mine.close()
    theirs.close()
    numbers = _row_with_hash(np.asarray(mine.hashes), np.asarray(theirs.hashes))
    leaking = np.flatnonzero(numbers >= 0)
    exact = np.stack([leaking, numbers[leaking]], axis=1)
    if not (mine.near and theirs.near):
        return Leaks(exact, exact[:0], np.empty(0, np.float32), 0, 0)
    kept = (numbers < 0) & (np.asarray(mine.lengths) > 0)
    once = _first_of_equals(np.asarray(theirs.hashes)) == np.arange(theirs.rows)
    similarity = train.config.similarity
    found = candidates(mine, theirs, similarity, kept, once, train.folder / "leaks")
    best: dict[int, tuple[int, float]] = {}
    compared = 0
    train_text, held_out_text = lru_cache(64)(train_texts), lru_cache(4096)(held_out_texts)
    common = partial(mine.common_in, share=COMMON_SHARE)
    for block in found:
        for row, other in block.tolist():
            compared += 1
            score = alike(train_text(row), held_out_text(other), similarity, common)
            if score > best.get(row, (0, 0.0))[1]:
                best[row] = (other, score)
    near = _array([(row, other) for row, (other, _) in best.items()])
    return Leaks(
        exact, near, np.array([score for _, score in best.values()], np.float32), found.capped, compared
    )


def _first_of_equals(hashes: NDArray[np.uint64]) -> Ints:
    """Per row the first row of the same hash; a row without a text is its own."""
    root: Ints = np.arange(len(hashes))
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    later = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)) + 1
    opening = np.diff(later, prepend=-1) > 1  # of a run of equal hashes, the second
    root[order[later]] = order[later[opening] - 1][np.cumsum(opening) - 1]
    return root


def _pairs_of(root: Ints) -> Ints:
    repeated = np.flatnonzero(root != np.arange(len(root)))
    return np.stack([root[repeated], repeated], axis=1)


def _conflicts(questions: NDArray[np.uint64], whole: NDArray[np.uint64]) -> Ints:
    """Pairs (first row of a question, a later row of it whose whole text differs)."""
    pairs = _pairs_of(_first_of_equals(questions))
    differing: Ints = pairs[whole[pairs[:, 0]] != whole[pairs[:, 1]]]
    keys = np.stack([differing[:, 0].astype(np.uint64), whole[differing[:, 1]]])
    once = np.sort(np.unique(keys, axis=1, return_index=True)[1])
    answers: Ints = differing[once]
    return answers


def _row_with_hash(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> Ints:
    """Per hash the first row of `others` with the same one, or −1."""
    if not len(others):
        return np.full(len(hashes), -1, np.int64)
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    place = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    found = (ordered[place] == hashes) & (hashes != 0)
    numbers: Ints = np.where(found, order[place], -1)
    return numbers


def _array(pairs: list[tuple[int, int]]) -> Ints:
    return np.array(pairs, np.int64).reshape(-1, 2)
