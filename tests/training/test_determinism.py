"""Runs that repeat each other bit for bit, and settings that are back afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from seektune.models.load import Loaded
from seektune.training.determinism import WORKSPACE, full_determinism
from seektune.training.loop import train

Adapted = Callable[..., Loaded]


def settings() -> tuple[object, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        os.environ.get(WORKSPACE),
    )


def trained(loaded: Loaded, rows: Any) -> list[torch.Tensor]:
    """The adapter after three steps with an evaluation; in between the caller sees the settings too."""
    for _ in train(
        loaded, rows.grouped(4), eval_batches=rows, max_steps=3, learning_rate=1e-2, full_determinism=True
    ):
        assert settings()[0] is True
        assert os.environ[WORKSPACE]
    return [p.detach().cpu() for p in loaded.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", ["llama", "deepseek_v2", "deepseek_v3", "deepseek_v4"])
def test_no_op_lacks_a_deterministic_form_and_two_runs_are_the_same_bits(
    name: str, rows: Any, adapted: Adapted
) -> None:
    def run() -> list[torch.Tensor]:
        group = "dense" if name == "llama" else "routed"
        return trained(adapted(f"tiny/{name}", target_modules=["attention", group], lora_dropout=0.2), rows)

    before = settings()
    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)
    assert settings() == before


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_two_runs_on_a_gpu_are_the_same_bits(name: str, rows: Any, adapted: Adapted) -> None:
    def run() -> list[torch.Tensor]:
        group = "dense" if name == "llama" else "routed"
        loaded = adapted(f"tiny/{name}", target_modules=["attention", group], lora_dropout=0.2)
        loaded.model.to("cuda")
        return trained(loaded, rows)

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_what_was_set_before_is_set_again_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before, seen = settings(), []
        with pytest.raises(ZeroDivisionError), full_determinism():
            seen.append(settings()[0] / 0)
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_without_it_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    before = settings()
    with full_determinism(False):
        assert settings() == before
