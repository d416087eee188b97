from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from seektune.training.window import windows
from seektune.types import IGNORE


def test_a_window_never_spans_two_epochs_and_the_epochs_never_end(rows: Any) -> None:
    seen = list(islice(windows(rows.grouped(1), 3), 7))  # 8 rows: windows of 3, 3, 2
    assert [len(window.batches) for window in seen] == [3, 3, 2, 3, 3, 2, 3]
    assert [round(window.epoch, 3) for window in seen] == [0.375, 0.75, 1.0, 1.375, 1.75, 2.0, 2.375]


def test_a_window_knows_its_weight_its_tokens_and_its_rows(rows: Any) -> None:
    (window,) = islice(windows(rows.grouped(4), 2), 1)
    samples = rows.samples
    assert window.weight == sum(target >= 0 for sample in samples for target in sample.targets)
    assert window.tokens == sum(map(len, samples))
    assert window.row_ids == tuple(sample.row_id for sample in samples)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_windows_can_start_wherever_one_ended(size: int, rows: Any) -> None:
    seen = list(islice(windows(rows, size), 12))
    for index, window in enumerate(seen[:-4]):
        later = list(islice(windows(rows, size, window.after), 4))
        expected = seen[index + 1 : index + 5]
        assert [found.row_ids for found in later] == [window.row_ids for window in expected]
        assert [found.epoch for found in later] == [window.epoch for window in expected]
        again = next(windows(rows, size, window.start))
        assert (again.after, again.digest()) == (window.after, window.digest())


def test_a_digest_tells_rows_their_targets_weights_and_grouping_apart(rows: Any) -> None:
    def digest(samples: Any, group: int = 2) -> str:
        return next(windows(type(rows)(samples, group), 2)).digest()

    first, *others = rows.samples[:4]
    changed = [
        replace(first, input_ids=(5, *first.input_ids[1:])),
        replace(first, targets=(*first.targets[:-1], IGNORE)),
        replace(first, weight=0.5),
    ]
    found = {digest([sample, *others]) for sample in (first, *changed)}
    found |= {digest([*others, first]), digest([first, *others], group=4)}
    assert len(found) == 6
    assert digest([first, *others]) == digest(list(rows.samples[:4]))
