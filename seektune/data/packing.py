"""Which samples share a row: lengths in, lists of indices out, integers only."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def in_order(order: Sequence[int], size: int) -> list[list[int]]:
    """Rows of `size` samples in the given order; the last may be shorter."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def best_fit(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows of at most `budget` tokens by best-fit decreasing: each sample joins the fullest row it fits.

    `order` breaks ties between equal lengths, so it decides who shares a row but never how many rows there
    are. No length may exceed the budget. O(n log n + n · budget) in the worst case, n log n in practice.
    """
    rows: list[list[int]] = []
    rows_by_space: dict[int, list[int]] = {}
    spaces: list[int] = []  # the keys of rows_by_space, sorted
    for index in sorted(order, key=lambda index: -lengths[index]):
        length = lengths[index]
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
