"""Which pairs of texts may be near duplicates: found by shared fingerprints, sieved by length and letters.

Band by band, texts that share a fingerprint are paired. A fingerprint that many texts share says little about
any two of them, so its holders are paired with few of the others only: the next in order of rows, and
those whose smallest fingerprints agree, as copies of one text do. No sieve loses a pair that is alike: an
edit changes the length by one at most, and one count of a letter up and one down. Pairs wait in files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seektune.data.duplicates.signatures import BANDS, SAMPLE, Signatures

CROWD = 16
"""Fingerprints with more holders are crowded; across two sets of texts ACROSS times as many are allowed."""

ACROSS = 8
NEIGHBOURS = 2
PAIRS_AT_ONCE = 1 << 15
PARTS, LEAST_ROWS = 256, 1 << 12  # files of waiting pairs, and how many rows one is for
SHARED = ((SAMPLE, 1), (4 * SAMPLE, 2))
"""Fingerprints that a pair must share: (texts up to so many characters, so many); longer ones LONG_SHARED."""

LONG_SHARED = 3
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs to verify, (n, 2) in order of their rows; `capped` rows have crowded fingerprints only."""

    folder: Path
    capped: int
    found: int

    def __iter__(self) -> Iterator[Ints]:
        for part in range(PARTS):
            if (path := self.folder / f"sieved{part}").exists():
                yield np.fromfile(path, np.int64).reshape(-1, 2)


def candidates(
    left: Signatures, right: Signatures, similarity: float, left_kept: Bools, right_kept: Bools, folder: Path
) -> Candidates:
    """Pairs (row of left, row of right) that may be `similarity` alike; where both are one, left < right.

    Rows that are not `kept` are passed over. `folder` takes the waiting pairs, and is emptied first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    free = np.zeros(left.rows, np.bool_)
    for band in range(BANDS):
        mine = _sorted_band(left, band, left_kept)
        others = mine if left is right else _sorted_band(right, band, right_kept)
        for pairs in _pairs(mine, others, left is right, free):
            sieved = pairs[_possible(left, right, pairs, similarity)]
            _spill(folder, sieved, left.rows)
    found = _gather(left, right, folder)
    capped = np.count_nonzero(~free & left_kept & (np.asarray(left.lengths) > 0))
    return Candidates(folder, int(capped), found)


@dataclass(frozen=True, slots=True)
class _Band:
    keys: NDArray[np.uint64]  # fingerprint << 32 | smallest fingerprint of the row, sorted
    rows: NDArray[np.uint32]


def _sorted_band(signatures: Signatures, band: int, kept: Bools) -> _Band:
    entries = signatures.band(band)
    entries = entries[kept[entries["row"]]]
    keys = entries["key"].astype(np.uint64) << np.uint64(32)
    keys |= np.asarray(signatures.smallest)[entries["row"]]
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], entries["row"][order]
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])  # a gram that a text repeats counts once
    return _Band(keys[new], rows[new])


def _pairs(mine: _Band, others: _Band, same: bool, free: Bools) -> Iterator[Ints]:
    """Pairs of rows that share a fingerprint, in blocks; marks in `free` the rows with an uncrowded one."""
    fingerprints = others.keys >> np.uint64(32)
    start = np.searchsorted(fingerprints, mine.keys >> np.uint64(32), "left")
    stop = np.searchsorted(fingerprints, mine.keys >> np.uint64(32), "right")
    crowded = stop - start > CROWD * (1 if same else ACROSS)
    free[mine.rows[~crowded]] = True
    start[crowded] = np.searchsorted(others.keys, mine.keys[crowded], "left")
    stop[crowded] = np.searchsorted(others.keys, mine.keys[crowded], "right")
    if same:
        start = np.arange(1, len(mine.keys) + 1)
    stop[crowded] = np.minimum(stop[crowded], start[crowded] + NEIGHBOURS)
    if same and crowded.any():
        order = np.lexsort((mine.rows[crowded], fingerprints[crowded]))
        rows, held = mine.rows[crowded][order], fingerprints[crowded][order]
        after = np.flatnonzero(held[1:] == held[:-1]) + 1
        for first in range(0, len(after), PAIRS_AT_ONCE):
            some = after[first : first + PAIRS_AT_ONCE]
            yield _ordered(rows[some - 1], rows[some], same)
    counts = np.maximum(stop - start, 0)
    totals = np.cumsum(counts)
    last = int(totals[-1]) if len(totals) else 0
    cuts = np.searchsorted(totals, np.arange(0, last, PAIRS_AT_ONCE), "right")
    for first, end in pairwise([*cuts.tolist(), len(counts)]):
        size = counts[first:end]
        offsets = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        partners = others.rows[np.repeat(start[first:end], size) + offsets]
        yield _ordered(np.repeat(mine.rows[first:end], size), partners, same)


def _ordered(left: NDArray[np.uint32], right: NDArray[np.uint32], same: bool) -> Ints:
    """Pairs as (n, 2); those within one set of texts with the smaller row first."""
    pairs = np.stack([left, right], axis=1).astype(np.int64)
    return np.sort(pairs, axis=1) if same else pairs


def _possible(left: Signatures, right: Signatures, pairs: Ints, similarity: float) -> Bools:
    """Whether length and letters allow two texts to be so alike: neither sieve ever loses a true pair."""
    one, two = left.lengths[pairs[:, 0]], right.lengths[pairs[:, 1]]
    longest = np.maximum(one, two).astype(np.float64)
    edits = (1 - similarity) * longest + 1e-6
    possible = longest - np.minimum(one, two) <= edits
    index = np.flatnonzero(possible)
    difference = left.letters[pairs[index, 0]].astype(np.int16) - right.letters[pairs[index, 1]]
    more = np.maximum(difference, 0).sum(axis=1)
    fewer = more - difference.sum(axis=1)
    possible[index] = np.maximum(more, fewer) <= edits[index]
    return possible


def _spill(folder: Path, pairs: Ints, rows: int) -> None:
    """Append pairs to the file of their left row's range."""
    part = pairs[:, 0] // max(LEAST_ROWS, -(-rows // PARTS))
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part, minlength=PARTS))
    keys = (pairs[order, 0] << 32 | pairs[order, 1]).astype(np.uint64)
    for index, chunk in enumerate(np.split(keys, ends[:-1])):
        if len(chunk):
            with (folder / f"pairs{index}").open("ab") as file:
                file.write(chunk.tobytes())


def _gather(left: Signatures, right: Signatures, folder: Path) -> int:
    """Each pair once, in order, if it was found as often as its length asks; returns how many."""
    found = 0
    for part in range(PARTS):
        path = folder / f"pairs{part}"
        if not path.exists():
            continue
        waiting = np.fromfile(path, np.uint64)
        waiting.sort()
        places = np.flatnonzero(np.diff(waiting, prepend=~waiting[:1]))
        counts = np.diff(places, append=len(waiting))
        unique = waiting[places]
        pairs = np.stack([unique >> np.uint64(32), unique & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)
        shorter = np.minimum(left.lengths[pairs[:, 0]], right.lengths[pairs[:, 1]])
        needed = np.full(len(pairs), LONG_SHARED)
        for length, shared in reversed(SHARED):
            needed[shorter <= length] = shared
        pairs = pairs[counts >= needed]
        pairs.tofile(folder / f"sieved{part}")
        found += len(pairs)
        path.unlink()
    return found
