"""Small signatures of many texts, kept in files: hash, length, letter counts and sampled fingerprints.

A fingerprint is the hash of a gram: the GRAM bytes of UTF-8 from the start of a character, so ten letters or
a little over three Chinese characters. After random edits of a tenth of the characters one gram in three
(Latin) or two in three (Chinese) is still whole. Of each text the grams with the smallest hashes are kept,
SAMPLE on average and all of a short text: the same gram is kept in every text of that length (MinHash with
one hash function), and two texts of the same length share as many samples as they share grams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seektune.data.duplicates.comparison import IMAGES, canonical

GRAM = 10
SAMPLE = 32
BANDS = 128
LETTERS = 32
"""Classes of characters that are counted per text."""

COMMON_CELLS = 1 << 20
LEAST_COMMON = 5  # texts
COUNTED_CHUNKS = 16  # grams are counted in the first so many chunks, then in one of so many
CHUNK_CHARS, BLOCK_ROWS, BLOCK_CHARS = 1 << 16, 1 << 13, 1 << 21
PAD = b"\0" * 16  # grams at a text's end run into it, never into the next text
ODD = tuple(np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93))
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)

ENTRY = np.dtype([("key", "<u4"), ("row", "<u4")])


def grams(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Of each character of all texts, in order: the hash of its gram (shorter at the end), and its class."""
    data = PAD.join([*(text.encode("utf-8", "surrogatepass") for text in texts), b""])
    raw = np.frombuffer(data, np.uint8)[: -len(PAD)]
    starts = (raw & 0xC0 != 0x80) & (raw != 0)
    words = np.ndarray(len(raw) + 2, "<u8", data, strides=(1,))
    hashes = words[:-2] * ODD[0]
    hashes += words[GRAM - 8 :] * ODD[1]
    hashes = hashes[starts]
    hashes ^= hashes >> HALF
    hashes *= ODD[2]
    hashes ^= hashes >> HALF
    following = np.frombuffer(data, np.uint8)[1 : len(raw) + 1]
    ends = (following & 0xC0 != 0x80) & (raw != 0)  # the last byte of each character
    return hashes, raw[ends] & (LETTERS - 1)


class Signatures:
    """Signatures of texts numbered in the order they are added; `folder` is theirs alone.

    Memory does not grow with the number of texts; `close` ends the adding and readies the arrays.
    """

    def __init__(self, folder: Path, *, near: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.near, self.rows = folder, near, 0
        self._common = np.zeros(COMMON_CELLS, np.int64)
        self._chunks = self._counted = 0
        self._texts: list[str] = []
        self._chars = 0
        for file in folder.iterdir():
            file.unlink()

    def add(self, text: str) -> None:
        """Take the next comparison text; an empty one equals nothing."""
        self._texts.append(text.replace("\0", " "))
        self._chars += len(text)
        if len(self._texts) >= BLOCK_ROWS or self._chars >= BLOCK_CHARS:
            self.close()

    def close(self) -> None:
        """Write what is still held back."""
        if not self._texts:
            return
        texts, self._texts, self._chars = self._texts, [], 0
        self._append("hash", np.fromiter(map(text_hash, texts), "<u8", len(texts)))
        if self.near:
            self._add_fingerprints([text.partition(IMAGES)[0] for text in texts])
        self.rows += len(texts)

    def _add_fingerprints(self, texts: list[str]) -> None:
        lengths = np.fromiter(map(len, texts), "<u4", len(texts))
        chunk = np.cumsum(lengths, dtype=np.int64) // CHUNK_CHARS  # small ones stay in the cache
        bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(texts)]
        parts = [self._chunk(texts[a:b], lengths[a:b], a) for a, b in pairwise(bounds)]
        entries = np.concatenate([part[0] for part in parts])
        self._append("length", lengths)
        self._append("letters", np.concatenate([part[1] for part in parts]))
        self._append("smallest", _smallest(entries, len(texts)))
        entries["row"] += self.rows
        band = (entries["key"] % BANDS).astype(np.uint8)
        order = np.argsort(band, kind="stable")
        ends = np.cumsum(np.bincount(band, minlength=BANDS))
        for index, part in enumerate(np.split(entries[order], ends[:-1])):
            self._append(f"band{index}", part)

    def _chunk(
        self, texts: list[str], lengths: NDArray[np.uint32], first: int
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Entries and letter counts of some texts of a block, the first of them its row `first`."""
        hashes, letters = grams(texts)
        ends = np.cumsum(lengths, dtype=np.int64)
        counts = np.empty((len(texts), LETTERS), np.uint8)
        for row, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
            counts[row] = np.minimum(np.bincount(letters[start:end], minlength=LETTERS), 255)
        limits = (np.minimum(SAMPLE / np.maximum(lengths, 1), 1) * 0xFFFFFFFF).astype(np.uint32)
        chosen = np.flatnonzero(hashes.astype(np.uint32) <= np.repeat(limits, lengths))
        if self._chunks < COUNTED_CHUNKS or self._chunks % COUNTED_CHUNKS == 0:
            cells = (hashes >> HALF).astype(np.int64) & (COMMON_CELLS - 1)
            self._common += np.bincount(cells, minlength=COMMON_CELLS)
            self._counted += len(texts)
        self._chunks += 1
        entries = np.empty(len(chosen), ENTRY)
        entries["key"] = hashes[chosen] >> HALF
        entries["row"] = np.searchsorted(ends, chosen, side="right") + first
        return entries, counts

    def _append(self, name: str, values: NDArray[Any]) -> None:
        if len(values):
            with (self.folder / name).open("ab") as file:
                file.write(values.tobytes())

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """64-bit hash of each text; 0 for an empty one."""
        return self._read("hash", np.dtype("<u8"))

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Characters of each text."""
        return self._read("length", np.dtype("<u4"))

    @property
    def smallest(self) -> NDArray[np.uint32]:
        """Smallest fingerprint of each text, the same in copies with few edits."""
        return self._read("smallest", np.dtype("<u4"))

    @property
    def letters(self) -> NDArray[np.uint8]:
        """(rows, LETTERS): how often each class of characters occurs, 255 at most."""
        return self._read("letters", np.dtype(np.uint8)).reshape(-1, LETTERS)

    def band(self, index: int) -> NDArray[Any]:
        """The sampled fingerprints of one of the BANDS, as (key, row) in order of rows."""
        return self._read(f"band{index}", ENTRY)

    def common_in(self, text: str, share: float) -> NDArray[np.bool_]:
        """Per character of `text`: whether it lies in a gram that more than `share` of the texts have."""
        cells = (grams([text])[0] >> HALF).astype(np.int64) & (COMMON_CELLS - 1)
        frequent = self._common[cells] > max(share * self._counted, LEAST_COMMON)
        sizes = np.array([len(character.encode("utf-8", "surrogatepass")) for character in text])
        starts = np.cumsum(sizes) - sizes
        covered = np.zeros(
            int(sizes.sum()) + GRAM, np.int64
        )  # by byte: +1 where a gram begins, −1 at its end
        covered[starts[frequent]] += 1
        covered[starts[frequent] + GRAM] -= 1
        inside: NDArray[np.bool_] = np.cumsum(covered)[starts] > 0
        return inside

    def _read(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        path = self.folder / name
        if not path.exists():
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r")


def _smallest(entries: NDArray[Any], rows: int) -> NDArray[np.uint32]:
    """The smallest key of each row; entries are in order of their rows."""
    smallest = np.full(rows, LOW, "<u4")
    starts = np.flatnonzero(np.diff(entries["row"].astype(np.int64), prepend=-1))
    if len(starts):
        smallest[entries["row"][starts]] = np.minimum.reduceat(entries["key"], starts)
    return smallest


def text_hash(text: str) -> int:
    """64-bit hash of a comparison text, the same in whatever order its options are; 0 for an empty text."""
    if not text:
        return 0
    data = canonical(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
