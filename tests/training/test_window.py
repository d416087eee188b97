from __future__ import annotations

from itertools import islice
from typing import Any

from seektune.training.window import windows


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
