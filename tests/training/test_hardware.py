"""Cards and this machine."""

from __future__ import annotations

import pytest
import torch

from seektune.training.hardware import (
    CARDS,
    GIB,
    KERNEL_BYTES,
    measured_peak,
    process_bytes,
    rate_here,
    resident,
    seconds_on,
)


def test_the_longer_of_computing_and_reading_counts() -> None:
    card = CARDS["A100 80GB"]
    assert card.memory == 80 * GIB
    computing = seconds_on(card, 312e12, 0, torch.bfloat16)
    assert computing == pytest.approx(1 / 0.4)
    assert seconds_on(card, 312e12, 1e9, torch.bfloat16) == computing
    assert seconds_on(card, 312e12, 2039e10, torch.bfloat16) == pytest.approx(10 / 0.7)
    assert seconds_on(card, 312e12, 0, torch.float32) > 10 * computing


def test_a_training_process_is_measured_with_its_imports() -> None:
    alone = process_bytes() - KERNEL_BYTES
    assert 0.1e9 < alone < 2e9


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its memory is measured")
def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = resident()
    filled = torch.ones(50_000_000)
    assert resident() - before > 150e6
    del filled
    assert measured_peak() >= before + 150e6
    assert measured_peak() >= resident()


def test_one_product_gives_a_rate() -> None:
    assert rate_here(torch.float32, width=256, rows=64) > 1e8
