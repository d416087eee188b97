"""Tiny models with adapters that were really trained, and their logits on fixed rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded, load_model

Build = Callable[..., Loaded]
Logits = Callable[[object], Tensor]


@pytest.fixture(scope="session")
def rows() -> Tensor:
    """Two rows of 24 tokens; V4's compressors need 8."""
    return torch.randint(3, 256, (2, 24), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def adapted() -> Build:
    """A fresh tiny model with a new adapter; keywords are AdapterSpec's."""

    def build(name: str = "deepseek_v3", dtype: str = "float32", **spec: object) -> Loaded:
        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["attention"]} | spec
        return attach(load_model(f"tiny/{name}", dtype=dtype), AdapterSpec(**settings))

    return build


@pytest.fixture
def trained(adapted: Build, rows: Tensor) -> Build:
    """The same after a few steps of AdamW in training mode, so with dropout; in evaluation mode again."""

    def build(name: str = "deepseek_v3", dtype: str = "float64", steps: int = 4, **spec: object) -> Loaded:
        torch.manual_seed(0)  # dropout
        loaded = adapted(name, dtype, **({"lora_dropout": 0.1} | spec))
        optimizer = torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=2e-2)
        loaded.model.train()
        for _ in range(steps):
            loaded.model(rows, labels=rows, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loaded.model.eval()
        return loaded

    return build


@pytest.fixture
def logits(rows: Tensor) -> Logits:
    """model → its logits on the rows."""

    def run(model: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            output: Tensor = model(rows, use_cache=False).logits
        return output

    return run
