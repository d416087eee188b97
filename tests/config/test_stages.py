"""One stage of the `training.stages` list."""

from __future__ import annotations

from typing import Any

import pytest

from seektune.config.section import validated
from seektune.config.stages import StageConfig
from seektune.errors import ConfigError


def stage(**values: Any) -> StageConfig:
    return validated(StageConfig, {"learning_rate": 1e-4, "max_steps": 3} | values, "stage")


def test_by_default_a_stage_trains_all_of_the_adapter() -> None:
    assert (stage().layers, stage().target_modules) == ((0.0, 1.0), None)


@pytest.mark.parametrize("layers", [[0.5, 0.5], [0.6, 0.4], [-0.1, 0.5], [0.5, 1.5], [0.5], "low"])
def test_layers_are_an_ascending_part_of_the_depth(layers: Any) -> None:
    with pytest.raises(ConfigError, match="layers"):
        stage(layers=layers)


def test_a_stage_has_exactly_one_length() -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        stage(num_train_epochs=1)
    with pytest.raises(ConfigError, match="exactly one"):
        stage(max_steps=None)


def test_a_stage_has_its_own_rate_and_no_empty_targets() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        validated(StageConfig, {"max_steps": 3}, "stage")
    with pytest.raises(ConfigError, match="target_modules: is empty"):
        stage(target_modules=[])
