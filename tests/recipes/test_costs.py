"""Numbers as a reader sees them."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from seektune.config.adapter import AdapterSpec
from seektune.models.outline import architecture, outline
from seektune.recipes.costs import clock, fits, page, size_of
from seektune.training.estimate import Estimate, predict
from seektune.training.footprint import Device, Workload
from seektune.training.hardware import GIB


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.02, "20 ms"),
        (2.5, "2.5 s"),
        (119, "119.0 s"),
        (2400, "40.0 min"),
        (11_520, "3.2 h"),
        (1e6, "11.6 days"),
    ],
)
def test_times_have_a_unit(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(900, "0.9 KiB"), (2**20, "1.00 MiB"), (GIB // 2, "0.50 GiB"), (1400 * GIB, "1,400.00 GiB")],
)
def test_sizes_have_a_unit(count: int, text: str) -> None:
    assert size_of(count) == text


def test_a_card_holds_what_is_not_above_its_memory() -> None:
    assert fits(24 * GIB) == "12 GB no · 24 GB yes · 48 GB yes · 80 GB yes"
    assert "24 GB no" in fits(24 * GIB + 1)


def printed(name: str) -> str:
    described = architecture(name)
    outlined, spec = outline(described), AdapterSpec(target_modules=["attention"])
    load = Workload(tokens=2048, longest=2048)
    devices: tuple[Device, Device] = ("cpu", "cuda")
    found: dict[Device, Estimate] = {
        device: predict(outlined, spec, load, process=0, tokens=4096, steps=2, stored=torch.bfloat16)
        for device in devices
    }
    out = io.StringIO()
    page(Console(file=out, width=200), spec, described, outlined, load, found, assumed="the data is assumed")
    return out.getvalue()


def test_a_model_beyond_one_card_says_how_many_it_needs_and_how_it_is_stored() -> None:
    text = printed("deepseek-ai/DeepSeek-R1")
    assert "at least 1" in text
    assert "stored as fp8" in text
    assert "the data is assumed" in text
    assert "int4 354.15 GiB" in text


def test_an_attention_that_is_not_ours_is_called_a_guess() -> None:
    assert "deepseek_v32 runs transformers' own attention" in printed("tiny/deepseek_v32")
    assert "transformers' own attention" not in printed("tiny/deepseek_v3")
