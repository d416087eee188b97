"""Tiny models with random adapters, read back from their folders, as an exporter takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seektune.adapters.attach import attach
from seektune.adapters.store import Stored, read_adapter, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded, load_model

Adapted = tuple[Loaded, Stored]
Build = Callable[..., Adapted]
Logits = Callable[[nn.Module], Tensor]


@pytest.fixture
def adapted(tmp_path: Path) -> Build:
    """A float64 model named org/base with an adapter at work whose B is not 0, and the adapter as stored."""

    def build(name: str, **spec: object) -> Adapted:
        settings = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1, "init_lora_weights": False} | spec
        loaded = attach(load_model(f"tiny/{name}", dtype="float64"), AdapterSpec(**settings))
        stored = read_adapter(loaded, save_adapter(loaded, tmp_path / "adapter"))
        return replace(loaded, source="org/base"), stored

    return build


@pytest.fixture
def logits() -> Logits:
    """model → its logits on two rows of 24 tokens."""
    rows = torch.randint(3, 256, (2, 24), generator=torch.Generator().manual_seed(7))

    def run(model: nn.Module) -> Tensor:
        with torch.no_grad():
            output: Tensor = model(rows, use_cache=False).logits
        return output

    return run
