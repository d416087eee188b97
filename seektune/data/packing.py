"""Which samples share a row: lengths in, a plan of indices out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
WINDOW = 1 << 16
"""Samples packed together: enough to fill rows, few enough that millions need no more memory."""


class Plan(NamedTuple):
    """Rows of an epoch as two arrays, so that millions of samples take megabytes."""

    members: Ints  # (N,) indices of samples, row after row
    starts: Ints  # (R + 1,) where each row begins in `members`, and the end

    def row(self, index: int) -> list[int]:
        """The samples of row `index`."""
        row: list[int] = self.members[self.starts[index] : self.starts[index + 1]].tolist()
        return row

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.starts) - 1


def in_order(order: Ints, size: int) -> Plan:
    """Rows of `size` samples in the given order; the last may be shorter."""
    return Plan(order, np.append(np.arange(0, len(order), size), len(order)))


def packed(rank: Ints, lengths: Ints, budget: int, window: int = WINDOW) -> Plan:
    """Rows of at most `budget` tokens, best fit in every `window` consecutive samples.

    `rank` breaks ties between equal lengths: it decides who shares a row, never how many rows there are.
    """
    members = np.empty(len(lengths), np.int64)
    sizes = [np.empty(0, np.int64)]
    for start in range(0, len(lengths), window):
        part = slice(start, start + window)
        order = start + np.argsort(rank[part], kind="stable")
        rows = best_fit(order.tolist(), lengths, budget)
        members[part] = np.fromiter(chain.from_iterable(rows), np.int64, len(order))
        sizes.append(np.fromiter(map(len, rows), np.int64, len(rows)))
    return Plan(members, np.append(0, np.cumsum(np.concatenate(sizes))))


def shuffled(plan: Plan, generator: np.random.Generator) -> Plan:
    """The same rows in another order."""
    order = generator.permutation(plan.rows)
    sizes = np.diff(plan.starts)[order]
    starts = np.append(0, np.cumsum(sizes))
    shift = np.repeat(plan.starts[:-1][order] - starts[:-1], sizes)
    return Plan(plan.members[np.arange(len(plan.members)) + shift], starts)


def best_fit(order: Sequence[int], lengths: Sequence[int] | Ints, budget: int) -> list[list[int]]:
    """Rows of at most `budget` tokens by best-fit decreasing: each sample joins the fullest row it fits.

    `order` breaks ties between equal lengths. No length may exceed the budget. O(n log n + n · budget) in
    the worst case, n log n in practice.
    """
    rows: list[list[int]] = []
    rows_by_space: dict[int, list[int]] = {}
    spaces: list[int] = []  # the keys of rows_by_space, sorted
    sizes = {index: int(lengths[index]) for index in order}
    for index in sorted(order, key=lambda index: -sizes[index]):
        length = sizes[index]
        assert length <= budget, f"a sample of {length} tokens cannot fit a row of {budget}"
        place = bisect_left(spaces, length)
        if place == len(spaces):
            row, space = len(rows), budget
            rows.append([])
        else:
            space = spaces[place]
            row = rows_by_space[space].pop()
            if not rows_by_space[space]:
                del rows_by_space[space], spaces[place]
        rows[row].append(index)
        left = space - length
        if left not in rows_by_space:
            rows_by_space[left] = []
            insort(spaces, left)
        rows_by_space[left].append(row)
    return rows
