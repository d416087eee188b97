"""The `training` section."""

from __future__ import annotations

import pytest

from seektune.config.section import validated
from seektune.config.training import TrainingConfig
from seektune.errors import ConfigError


def test_bf16_and_fp16_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="keep one"):
        validated(TrainingConfig, {"bf16": True, "fp16": True}, "training")


def test_a_learning_rate_written_as_text_is_a_number() -> None:
    assert validated(TrainingConfig, {"learning_rate": "5e-5"}, "training").learning_rate == 5e-5
