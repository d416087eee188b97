"""What accelerate's launcher may ask for, told from the variables that it sets."""

from __future__ import annotations

import pytest

from seektune.errors import TrainingError
from seektune.training import launch
from seektune.training.launch import check_launch

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


def refused(environ: dict[str, str], on_cpu: bool) -> str:
    with pytest.raises(TrainingError) as caught:
        check_launch(environ, on_cpu)
    return str(caught.value)


def test_nothing_and_ddp_and_fsdp2_and_zero2_on_gpus_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    for environ in ({}, {"WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "a"}):
        check_launch(environ, on_cpu=True)
    for environ in (FSDP, DEEPSPEED, {"ACCELERATE_USE_FSDP": "false"}):
        check_launch(environ, on_cpu=False)


def test_fsdp_without_gpus_is_refused_where_accelerate_would_train_with_ddp() -> None:
    assert "silently train with DDP" in refused(FSDP, on_cpu=True)


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}, "fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading: false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "training.gradient_checkpointing: true"),
    ],
)
def test_an_fsdp_setting_that_would_harm_is_refused_with_its_fix(change: dict[str, str], fix: str) -> None:
    assert fix in refused(FSDP | change, on_cpu=False)


def test_zero_3_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    message = refused(DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, on_cpu=False)
    assert message.startswith("DeepSpeed ZeRO-3 is refused: it gathers weights when a module is called")


def test_deepspeed_without_its_package_is_named() -> None:
    assert "pip install deepspeed" in refused(DEEPSPEED, on_cpu=False)


@pytest.mark.parametrize("name", ["MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_was_never_tried_is_refused(name: str) -> None:
    assert "is not supported" in refused({f"ACCELERATE_USE_{name}": "true"}, on_cpu=False)


def test_a_cpu_launch_that_starts_one_process_instead_of_many_is_refused() -> None:
    environ = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert "--multi_gpu instead of --cpu" in refused(environ, on_cpu=True)


def test_everything_wrong_is_said_at_once() -> None:
    wrong = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}
    assert refused(wrong, on_cpu=True).count(";") >= 2
