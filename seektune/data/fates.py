"""Which rows train, which are held out, and which repeat one of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seektune.config.data import DataConfig
from seektune.data.duplicates.comparison import question_text, text_of
from seektune.data.duplicates.index import Duplicates, Index, Leaks, leaks
from seektune.data.gather import Gathered
from seektune.data.ledger import Ledger
from seektune.data.records import Dropped
from seektune.data.split import held_out
from seektune.types import Row

Numbers = NDArray[np.int64]
PAIRS_SHOWN = 20
"""Pairs of each kind in report.json; all of them are in dropped.jsonl."""


@dataclass(frozen=True)
class Fates:
    """The numbers of the rows on each side, in order, and what was found on the way."""

    train: Numbers
    held_out: Numbers  # of the held-out source, or of the training source where a fraction is held out
    report: dict[str, Any]  # duplicates and leakage


def decide(
    config: DataConfig,
    train: Gathered,
    index: Index,
    keys: NDArray[np.uint64],
    other: tuple[Gathered, Index] | None,
    work: Path,
    ledger: Ledger,
) -> Fates:
    """Drop repeated training rows, hold out a fraction if asked to, then drop what leaks.

    `keys` are the training rows' `question_key`s; `other` is the held-out source. Every row dropped here was
    kept until now.
    """
    rows = train.rows
    found = index.duplicates(lambda number: text_of(rows[number]))
    for kind, pairs in (("duplicate", found.exact), ("near_duplicate", found.near)):
        for first, again in pairs.tolist():
            ledger.drop(train.account_of(again), _like(rows, again, kind, rows[first].row_id), was_kept=True)
    alive = np.ones(len(rows), np.bool_)
    alive[found.dropped] = False
    kept = np.flatnonzero(alive)
    nothing: dict[str, Any] = {"exact": 0, "near": 0, "pairs": []}
    report = {"duplicates": _duplicates(found, rows), "leakage": nothing}
    if other is None and config.eval.fraction is None:
        return Fates(kept, kept[:0], report)
    if other is None:
        out = held_out(keys[kept], config.eval.fraction or 0.0)
        held, kept = kept[out], kept[~out]
        held_rows: Sequence[Row] = rows
        sides = [
            _index(rows, numbers, config, work / name) for numbers, name in ((kept, "kept"), (held, "held"))
        ]
        leaking = _leaks(sides[0], sides[1], kept, rows, held, rows)
    else:
        held_rows, held_index = other[0].rows, other[1]
        held = np.arange(len(held_rows))
        everything = np.arange(len(rows))
        leaking = _leaks(index, held_index, everything, rows, held, held_rows)
    return _without(config, train, kept, held, held_rows, leaking, ledger, report)


def _index(rows: Sequence[Row], numbers: Numbers, config: DataConfig, folder: Path) -> Index:
    index = Index(folder, config.dedup, duplicates=False)
    for number in numbers.tolist():
        index.add(rows[number])
    return index


def _leaks(
    mine: Index, theirs: Index, numbers: Numbers, rows: Sequence[Row], held: Numbers, held_rows: Sequence[Row]
) -> list[tuple[int, int, float]]:
    """(train row, held-out row, similarity), by the numbers of the whole tables."""
    found: Leaks = leaks(mine, theirs, _asked(rows, numbers), _asked(held_rows, held))
    exact = ((a, b, 1.0) for a, b in found.exact.tolist())
    near = ((a, b, s) for (a, b), s in zip(found.near.tolist(), found.similarity.tolist(), strict=True))
    return [(int(numbers[a]), int(held[b]), s) for a, b, s in chain(exact, near)]


def _asked(rows: Sequence[Row], numbers: Numbers) -> Callable[[int], str]:
    return lambda place: question_text(rows[int(numbers[place])])


def _without(
    config: DataConfig,
    train: Gathered,
    kept: Numbers,
    held: Numbers,
    held_rows: Sequence[Row],
    leaking: list[tuple[int, int, float]],
    ledger: Ledger,
    report: dict[str, Any],
) -> Fates:
    """The training rows without those that leak, or with them where the configuration only reports."""
    alive = np.zeros(len(train.rows), np.bool_)
    alive[kept] = True
    leaking = [pair for pair in leaking if alive[pair[0]]]
    exact = sum(similarity == 1 for _, _, similarity in leaking)
    pairs = [
        {"train": train.rows[a].row_id, "eval": held_rows[b].row_id, "similarity": round(similarity, 3)}
        for a, b, similarity in leaking[:PAIRS_SHOWN]
    ]
    report["leakage"] = {"exact": exact, "near": len(leaking) - exact, "pairs": pairs}
    if config.dedup.leakage == "report":
        return Fates(kept, held, report)
    for row, other, similarity in leaking:
        kind = "leakage" if similarity == 1 else "near_leakage"
        ledger.drop(
            train.account_of(row), _like(train.rows, row, kind, held_rows[other].row_id), was_kept=True
        )
    gone = np.array([row for row, _, _ in leaking], np.int64)
    return Fates(np.setdiff1d(kept, gone), held, report)


def _like(rows: Sequence[Row], number: int, reason: str, other: str) -> Dropped:
    return Dropped(rows[number].row_id, reason, f"like {other}")


def _duplicates(found: Duplicates, rows: Sequence[Row]) -> dict[str, Any]:
    near = [(*pair, s) for pair, s in zip(found.near.tolist(), found.similarity.tolist(), strict=True)]
    exact = [(*pair, 1.0) for pair in found.exact.tolist()]
    half = PAIRS_SHOWN // 2
    return {
        "exact": len(exact),
        "near": len(near),
        "conflicts": len(found.conflicts),
        "conflicting": [[rows[a].row_id, rows[b].row_id] for a, b in found.conflicts[:PAIRS_SHOWN].tolist()],
        "capped": found.capped > 0,
        "pairs": [
            {"kept": rows[a].row_id, "dropped": rows[b].row_id, "similarity": round(s, 3)}
            for a, b, s in [*exact[:half], *near[:half]]
        ],
    }
