"""Keys and values of all layers in pages, and what one forward over a ragged row needs of them.

Shapes: T new tokens, h query heads, k key/value heads, D width of queries and keys, V of values, P tokens of
a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as Items
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seektune.errors import ModelError
from seektune.generation.sequence import Sequence
from seektune.ops.paged_attention import Chunk, Decoding, Scratch, attend_chunk, attend_decoding

Scheduled = tuple[Sequence, int]
"""A sequence and how many of its pending tokens are computed."""

SLACK = 1.25
"""Sequences decode in one call where the longest has at most so many times the pages of the shortest."""


class KVCache:
    """Per layer keys (pages, P, k, D) and values (pages, P, k, V); with V = 0 keys serve as values too."""

    def __init__(
        self,
        shape: tuple[int, int, int, int],  # layers, k, D, V
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        layers, heads, key_width, value_width = shape
        self.page_size = page_size

        def pool(width: int) -> Tensor:
            return _zeros((num_pages, page_size, heads, width), dtype, device)

        self.keys = [pool(key_width) for _ in range(layers)]
        self.values = [pool(value_width) for _ in range(layers)] if value_width else self.keys
        self._scratch = (self.keys[0][:0], self.values[0][:0])

    def scratch(self, pages: int) -> Scratch:
        """Room for the keys and values of so many pages, the same for every layer and step."""
        if len(self._scratch[0]) < pages:
            # A fourth to spare: as sequences grow it would have to grow with each of their pages.
            shapes = [(pages + pages // 4, *pool.shape[1:]) for pool in (self.keys[0], self.values[0])]
            self._scratch = (self.keys[0].new_empty(shapes[0]), self.values[0].new_empty(shapes[1]))
        return self._scratch

    def plan(self, chunks: Items[Scheduled]) -> Pass:
        """What a forward over these chunks, in this order, needs."""
        return Pass(self, chunks)


class Pass:
    """One forward: which token is which sequence's, where it is written and what it sees.

    It travels to the attention modules as the keyword argument `paged`.
    """

    def __init__(self, cache: KVCache, chunks: Items[Scheduled]) -> None:
        self.cache = cache
        size, device = cache.page_size, cache.keys[0].device
        written = [
            sequence.table.pages[place // size] * size + place % size
            for sequence, count in chunks
            for place in range(sequence.computed, sequence.computed + count)
        ]
        self.slots = torch.tensor(written, device=device)  # (T,) into the flattened pages
        self.fresh: list[slice] = []  # sequences from their first token on
        self.later: list[Chunk] = []
        self._decoding: list[tuple[int, Sequence]] = []  # row and sequence
        start = 0
        for sequence, count in chunks:
            rows = slice(start, start + count)
            if not sequence.computed:
                self.fresh.append(rows)
            elif count > 1:
                self.later.append(self._chunk(sequence, rows))
            else:
                self._decoding.append((start, sequence))
            start = rows.stop
        self._decoding.sort(key=lambda item: item[1].computed)
        self.decoding = [self._group(group) for group in _groups(self._decoding, size)]
        gathered = [len(group.pages) for group in self.decoding] + [len(c.pages) for c in self.later]
        self._scratch = cache.scratch(max(gathered, default=0))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        """Write k (T, k, D) and v (T, k, V), attend with q (T, h, D) → (T, h, V)."""
        self.write(layer, k, v)
        out = q.new_empty(*q.shape[:2], v.shape[-1])
        self.attend_fresh(q, k, v, scaling, out)
        self.attend_past(layer, q, scaling, out, self.later)
        return out

    def layer(self, module: Any) -> int:
        """The number of an attention module; refuses what pages cannot do for it."""
        window = getattr(module, "sliding_window", None)
        if window is not None:
            raise ModelError(f"layer {module.layer_idx} has a sliding window, which paged attention ignores")
        return int(module.layer_idx)

    def write(self, layer: int, k: Tensor, v: Tensor | None = None) -> None:
        """Put keys (T, k, D) and values (T, k, V) of the new tokens in their places."""
        for pool, new in ((self.cache.keys, k), (self.cache.values, v)):
            if new is not None:
                pool[layer].flatten(0, 1).index_copy_(0, self.slots, new)

    def attend_fresh(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, out: Tensor) -> None:
        """Sequences from their first token on: q (T, h, D), k, v (T, k, ·) → out (T, h, V)."""
        width = v.shape[-1]
        for rows in self.fresh:
            part = [x[rows].transpose(0, 1).unsqueeze(0) for x in (q, k, v)]
            if width < q.shape[-1]:  # the fused kernels want equal widths
                part[2] = F.pad(part[2], (0, q.shape[-1] - width))
            attended = F.scaled_dot_product_attention(
                part[0], part[1], part[2], is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
            out[rows] = attended[0, ..., :width].transpose(0, 1)

    def past(self, later: Items[Chunk]) -> slice | Tensor | None:
        """The rows that `attend_past` fills, None for none."""
        rows = [row for row, _ in self._decoding]
        rows += [row for chunk in later for row in range(chunk.rows.start, chunk.rows.stop)]
        if len(rows) == len(self.slots):
            return slice(None)
        return torch.tensor(rows, device=self.slots.device) if rows else None

    def attend_past(self, layer: int, q: Tensor, scaling: float, out: Tensor, later: Items[Chunk]) -> None:
        """Decoding sequences and some chunks: q (T, h, D) → out (T, h, V), cut to its width."""
        keys, values, width = self.cache.keys[layer], self.cache.values[layer], out.shape[-1]
        for group in self.decoding:
            attended = attend_decoding(q[group.rows], keys, values, group, scaling, self._scratch)
            out[group.rows] = attended[..., :width]
        for chunk in later:
            attended = attend_chunk(q[chunk.rows], keys, values, chunk, scaling, self._scratch)
            out[chunk.rows] = attended[..., :width]

    def _group(self, items: Items[tuple[int, Sequence]]) -> Decoding:
        places, sequences = [row for row, _ in items], [sequence for _, sequence in items]
        lengths = [sequence.computed + 1 for sequence in sequences]
        pages = self._pages(sequences, max(lengths))
        mask = self._mask(torch.tensor(lengths, device=pages.device), pages.shape[1])
        neighbours = places == list(range(places[0], places[0] + len(places)))
        rows = slice(places[0], places[-1] + 1) if neighbours else torch.tensor(places, device=pages.device)
        return Decoding(rows, pages.flatten(), mask[:, None, None])

    def _chunk(self, sequence: Sequence, rows: slice) -> Chunk:
        length = sequence.computed + rows.stop - rows.start
        pages = self._pages([sequence], length)
        lengths = torch.arange(sequence.computed + 1, length + 1, device=pages.device)
        return Chunk(rows, pages[0], self._mask(lengths, pages.shape[1]))

    def _pages(self, sequences: list[Sequence], length: int) -> Tensor:
        """(sequences, pages that hold `length` tokens): shorter ones are padded with their first page."""
        count = -(-length // self.cache.page_size)
        tables = [sequence.table.pages[:count] for sequence in sequences]
        padded = [pages + pages[:1] * (count - len(pages)) for pages in tables]
        return torch.tensor(padded, device=self.slots.device)

    def _mask(self, lengths: Tensor, pages: int) -> Tensor:
        """(rows, pages·P): each row sees as many leading keys as its length says."""
        place = torch.arange(pages * self.cache.page_size, device=lengths.device)
        mask = torch.zeros(len(lengths), len(place), dtype=self.cache.keys[0].dtype, device=lengths.device)
        return mask.masked_fill_(place >= lengths[:, None], -torch.inf)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, as what a mask hides is still multiplied by 0; on CPU memory is taken when it is first used."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def _groups(items: list[tuple[int, Sequence]], page_size: int) -> Iterator[list[tuple[int, Sequence]]]:
    """Decoding sequences, the shortest first, cut where the next is much longer than its group's first."""
    group: list[tuple[int, Sequence]] = []
    for item in items:
        pages = item[1].computed // page_size + 1
        if group and pages > SLACK * (group[0][1].computed // page_size + 1):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
