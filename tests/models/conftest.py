"""Tiny models as a user has them: loaded by name, or as a checkpoint folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from seektune.models.tiny import tiny_model

# Wall-clock deadlines fail on a busy machine, whatever the code does.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """name → a new folder with that tiny model as `save_pretrained` writes it, without tokenizer."""

    def save(name: str = "llama", folder: str = "checkpoint", **options: object) -> Path:
        tiny_model(name)[0].save_pretrained(tmp_path / folder, **options)
        return tmp_path / folder

    return save
