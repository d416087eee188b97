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


def test_health_takes_a_policy_per_kind_and_no_kind_that_is_unknown() -> None:
    health = validated(TrainingConfig, {"health": {"loss_spike": "skip"}}, "training").health
    assert (health.loss_spike, health.non_finite, health.plateau) == ("skip", "stop", "warn")
    with pytest.raises(ConfigError, match=r"health\.los_spike: unknown key; did you mean loss_spike\?"):
        validated(TrainingConfig, {"health": {"los_spike": "skip"}}, "training")


@pytest.mark.parametrize(
    ("kind", "policy"), [("non_finite", "ignore"), ("non_finite", "warn"), ("plateau", "skip")]
)
def test_a_policy_that_cannot_work_is_refused(kind: str, policy: str) -> None:
    with pytest.raises(ConfigError, match=kind):
        validated(TrainingConfig, {"health": {kind: policy}}, "training")


STAGES = [{"layers": [0, 0.5], "learning_rate": "1e-3", "max_steps": 2}]


@pytest.mark.parametrize("key", ["num_train_epochs", "max_steps", "learning_rate"])
def test_stages_and_a_setting_that_each_of_them_has_are_both_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} would be ignored: each of the stages has its own"):
        validated(TrainingConfig, {"stages": STAGES, key: 3}, "training")


def test_a_mistake_in_a_stage_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"stages\.0\.layer: unknown key; did you mean layers\?"):
        validated(TrainingConfig, {"stages": [STAGES[0] | {"layer": [0, 1]}]}, "training")


def test_a_rate_may_only_fall_towards_the_first_layer() -> None:
    with pytest.raises(ConfigError, match="layerwise_lr_decay"):
        validated(TrainingConfig, {"layerwise_lr_decay": 1.1}, "training")
    with pytest.raises(ConfigError, match="loraplus_lr_ratio"):
        validated(TrainingConfig, {"loraplus_lr_ratio": 0}, "training")


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("none", ()),
        ([], ()),
        (["none"], ()),
        ("wandb", ("wandb",)),
        (["tensorboard", "mlflow"], ("tensorboard", "mlflow")),
    ],
)
def test_report_to_is_none_a_tracker_or_several(written: object, names: tuple[str, ...]) -> None:
    assert validated(TrainingConfig, {"report_to": written}, "training").report_to == names


def test_a_tracker_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"report_to.*'tensorboard', 'wandb', 'mlflow'"):
        validated(TrainingConfig, {"report_to": "tensorbord"}, "training")


def test_a_choice_of_layers_to_checkpoint_is_refused_where_none_is() -> None:
    every_other = {"gradient_checkpointing_kwargs": {"every_n_layers": 2}}
    assert validated(TrainingConfig, every_other | {"gradient_checkpointing": True}, "training")
    with pytest.raises(ConfigError, match="gradient_checkpointing: true"):
        validated(TrainingConfig, every_other, "training")
