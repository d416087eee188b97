"""Low-rank terms of many adapters in one batch: y[t] += B_s A_s x[t], s the slot of row t.

Resident adapters lie in numbered slots of two stacks, a (S, R, in) and b (S, R, out), b already scaled; slot
s uses the first ranks[s] of the R rows. Rows of one slot form a segment. Segments of one length and one rank
that follow each other are one batched product: on a view of the stacks where their slots are neighbours too,
else on a copy of theirs. The cost grows with the ranks in use, not with the slots. Rows without a slot are
never touched.

T rows, S slots, R the largest rank, n segments of c rows in one product, r their rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

ALL = slice(None)
"""The rows of a term that takes the whole batch, however many there are."""


class Segment(NamedTuple):
    """Rows start to stop, of one slot: places in `Mix.order` where there is one, else in the batch."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Mix:
    """Which rows of a batch of T belong to which slot: one segment per slot in use, in the order of slots."""

    tokens: int  # T
    segments: tuple[Segment, ...]
    order: Tensor | None  # rows in the order of their slots; None where the batch has that order already
    slots: Tensor  # (T,) int64, −1 = none

    @property
    def whole(self) -> bool:
        """Whether all rows belong to one slot, and so would any number of them."""
        return len(self.segments) == 1 and self.segments[0].stop - self.segments[0].start == self.tokens


class Term(NamedTuple):
    """One batched product: n segments of c rows each, and the matrices of each, or of all slots."""

    rows: slice | Tensor  # n·c rows of the batch, segment after segment
    a: Tensor  # (n or S, r, in)
    b: Tensor  # (n or S, r, out), scaled
    single: tuple[Tensor, Tensor] | None  # where n = 1: (in, r) and (r, out), as its plain product takes them
    slots: Tensor | None = None  # (n,) where a and b are those of all slots

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(n, r, in) and (n, r, out); those of slots that are no neighbours are copied side by side."""
        if self.slots is None:
            return self.a, self.b
        return self.a.index_select(0, self.slots), self.b.index_select(0, self.slots)


def term(rows: slice | Tensor, a: Tensor, b: Tensor) -> Term:
    """The term of these rows, a (n, r, in) and b (n, r, out)."""
    return Term(rows, a, b, (a[0].t(), b[0]) if len(a) == 1 else None)


def mix_rows(slots: Sequence[int], counts: Sequence[int], device: torch.device | str = "cpu") -> Mix:
    """The mix of a batch whose i-th sequence has counts[i] rows of slot slots[i], −1 for none.

    A batch in the order of its slots needs no gathering. Raises ValueError on a negative count.
    """
    if any(count < 0 for count in counts):
        raise ValueError(f"counts of rows must not be negative: {list(counts)}")
    spans: dict[int, list[range]] = {}
    bounds = list(accumulate(counts, initial=0))
    for slot, (start, stop) in zip(slots, pairwise(bounds), strict=True):
        if slot >= 0 and stop > start:
            _extend(spans.setdefault(slot, []), start, stop)
    used = sorted(spans.items())
    lengths = [sum(map(len, ranges)) for _, ranges in used]
    starts, order = list(accumulate(lengths, initial=0)), None
    if all(len(ranges) == 1 for _, ranges in used) and _rises([ranges[0].start for _, ranges in used]):
        starts = [ranges[0].start for _, ranges in used]
    else:
        order = torch.tensor([row for _, ranges in used for span in ranges for row in span], device=device)
    segments = tuple(
        Segment(slot, start, start + n) for (slot, _), start, n in zip(used, starts, lengths, strict=False)
    )
    of_rows = [slot for slot, count in zip(slots, counts, strict=True) for _ in range(count)]
    return Mix(bounds[-1], segments, order, torch.tensor(of_rows, dtype=torch.int64, device=device))


def mixed_terms(mix: Mix, ranks: Sequence[int], a: Tensor, b: Tensor) -> list[Term]:
    """The products of one linear: a (S, R, in), b (S, R, out), ranks[s] = 0 where slot s leaves it alone."""
    terms = []
    for run in _runs(mix.segments, ranks):
        first, last, rank = run[0], run[-1], ranks[run[0].slot]
        rows = _rows(mix, first.start, last.stop)
        if last.slot - first.slot == len(run) - 1:
            slots = slice(first.slot, last.slot + 1)
            terms.append(term(rows, a[slots, :rank], b[slots, :rank]))
        else:
            of_each = mix.slots[rows][:: first.stop - first.start]
            terms.append(Term(rows, a[:, :rank], b[:, :rank], None, of_each))
    return terms


def multi_lora_(y: Tensor, x: Tensor, terms: Sequence[Term]) -> Tensor:
    """Add every term to y (T, out) in place, of x (T, in), both in the stacks' dtype; returns y."""
    for one in terms:
        rows, single = one.rows, one.single
        part = x if rows is ALL else x[rows]
        if single is not None:
            a, b = single
            low = torch.mm(part, a)
        else:
            a, b = one.matrices()
            low = torch.bmm(part.unflatten(0, (len(a), -1)), a.mT)
        if not isinstance(rows, slice):
            y.index_add_(0, rows, (low @ b).reshape(len(part), -1))
            continue
        out = y if rows is ALL else y[rows]
        if single is not None:
            out.addmm_(low, b)
        else:
            out.unflatten(0, (len(a), -1)).baddbmm_(low, b)
    return y


def multi_lora_reference(y: Tensor, x: Tensor, terms: Sequence[Term]) -> Tensor:
    """The formula, row by row, on a copy of y."""
    y = y.clone()
    every = torch.arange(len(x), device=x.device)
    for one in terms:
        a, b = one.matrices()
        chosen = every[one.rows].tolist()
        for place, row in enumerate(chosen):
            segment = place * len(a) // len(chosen)
            y[row] += (a[segment] @ x[row]) @ b[segment]
    return y


def _extend(ranges: list[range], start: int, stop: int) -> None:
    if ranges and ranges[-1].stop == start:
        ranges[-1] = range(ranges[-1].start, stop)
    else:
        ranges.append(range(start, stop))


def _rises(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def _rows(mix: Mix, start: int, stop: int) -> slice | Tensor:
    if mix.whole:
        return ALL
    return slice(start, stop) if mix.order is None else mix.order[start:stop]


def _runs(segments: Sequence[Segment], ranks: Sequence[int]) -> Iterator[list[Segment]]:
    """Segments that follow each other and have one length and rank; rank 0 is left out."""
    run: list[Segment] = []
    for segment in segments:
        if run and not _joins(run[-1], segment, ranks):
            yield run
            run = []
        if ranks[segment.slot]:
            run.append(segment)
    if run:
        yield run


def _joins(last: Segment, segment: Segment, ranks: Sequence[int]) -> bool:
    return (
        segment.start == last.stop
        and segment.stop - segment.start == last.stop - last.start
        and ranks[segment.slot] == ranks[last.slot]
    )
