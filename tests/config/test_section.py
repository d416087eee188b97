"""Sections built from plain values."""

from __future__ import annotations

import pytest

from seektune.config.section import validated
from seektune.config.training import TrainingConfig
from seektune.errors import ConfigError


def test_a_section_can_be_built_from_plain_values() -> None:
    assert validated(TrainingConfig, {"seed": "7"}, "here").seed == 7
    with pytest.raises(ConfigError, match=r"here: sed: unknown key; did you mean seed\?"):
        validated(TrainingConfig, {"sed": 7}, "here")
