"""Rows whose answer is out of line with what the adapter learnt from all rows: probably wrong labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from seektune.diagnosis.cause import Cause

OUT_OF_LINE, OUT_OF_LINE_OPEN = 2.5, 4.0
"""Robust deviations above the rows' middle from which an answer is suspicious; the losses of open answers
have a long tail by nature."""

LEAST_SPREAD = 0.5
"""Nats that count as one deviation at least: answers known by heart hardly differ."""

LEAST, SHARE = 3, 0.03
"""Suspicious rows, and their share of all, from which they are a cause."""

NAMED = 100
"""Rows that a cause names."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How one row's answer looks to the adapter.

    `surprise` in nats: of a closed question, how much likelier the likeliest other answer is than the given
    one (negative: the given one is preferred); of open text, the mean loss of the answer's tokens.
    """

    row: str  # file:line
    surprise: float
    given: str
    preferred: str = ""  # what the model would have said, where it is known
    closed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def suspects(rows: Sequence[Judged]) -> tuple[Judged, ...]:
    """The rows out of line with the others, worst first; closed ones only where another is preferred."""
    if not rows:
        return ()
    middle = median(row.surprise for row in rows)
    spread = max(1.4826 * median(abs(row.surprise - middle) for row in rows), LEAST_SPREAD)
    found = [
        row
        for row in rows
        if (row.surprise - middle) / spread >= (OUT_OF_LINE if row.closed else OUT_OF_LINE_OPEN)
        and (row.surprise > 0 or not row.closed)
    ]
    return by_surprise(found)


def by_surprise(rows: Sequence[Judged]) -> tuple[Judged, ...]:
    """Most surprising first; what is not finite is most surprising of all."""
    return tuple(sorted(rows, key=lambda row: -row.surprise if math.isfinite(row.surprise) else -math.inf))


def label_cause(groups: Sequence[Sequence[Judged]]) -> Cause | None:
    """Wrong labels as a cause, where suspicious rows are more than a few of a group.

    Each group (training or held-out rows, closed or open) is its own yardstick: training rows may be learnt
    by heart, wrong labels and all, when held-out ones still stand out.
    """
    found = [suspects(group) for group in groups]
    pairs = zip(found, groups, strict=True)
    if not any(len(few) >= max(LEAST, SHARE * len(group)) for few, group in pairs):
        return None
    count, total = sum(map(len, found)), sum(map(len, groups))
    share = max(len(few) / len(group) for few, group in zip(found, groups, strict=True) if group)
    worst, *_ = ordered = by_surprise([row for few in found for row in few])
    said = f", where the model says {worst.preferred!r}" if worst.preferred else ""
    sentence = (
        f"{count:,} of {total:,} rows have answers out of line with what the others teach, up to {share:.0%} "
        f"of a split; worst is {worst.row} with {worst.given!r}{said}."
    )
    evidence = {"suspicious": count, "rows": total, "share": share}
    named = tuple(row.to_json() for row in ordered[:NAMED])
    change = ("data.train: [...]  # correct the rows listed, or leave them out",)
    return Cause("data", "wrong_labels", 5 + share, evidence, sentence, change, named)
