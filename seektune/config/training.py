"""The `training` section: how to train, in the names of HF's TrainingArguments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from seektune.config.section import Section, listed
from seektune.config.stages import StageConfig

Tracker = Literal["tensorboard", "wandb", "mlflow", "swanlab", "trackio"]

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]

StepPolicy = Literal["ignore", "warn", "skip", "rollback", "stop"]
"""For what is known before a step is applied, so that it can still be skipped."""

RunPolicy = Literal["ignore", "warn", "rollback", "stop"]
"""For what shows over many steps."""


class HealthConfig(Section):
    """What to do about each kind of finding: one policy per kind, and what the actions need.

    `skip` leaves the step's update out; `rollback` returns to the last checkpoint with a lower learning rate.
    """

    non_finite: Literal["skip", "rollback", "stop"] = "stop"  # loss, gradient or parameter; never ignored
    loss_spike: StepPolicy = "warn"
    gradient_explosion: StepPolicy = "warn"
    long_row: StepPolicy = "warn"  # one row out of all proportion fills most of a step
    divergence: RunPolicy = "warn"  # the loss rises and stays up
    loss_scale: RunPolicy = "warn"  # the scale of float16 gradients keeps falling
    routing_collapse: RunPolicy = "warn"
    plateau: Literal["ignore", "warn", "stop"] = "warn"
    dead_adapter: Literal["ignore", "warn", "stop"] = "warn"
    eval_worse: RunPolicy = "warn"
    early_stopping_patience: int | None = Field(None, gt=0)  # evaluations without improvement, then stop
    early_stopping_threshold: float = Field(0.0, ge=0)  # a smaller improvement counts as none
    max_skipped_steps: int = Field(3, gt=0)  # in a row; the next one stops the run
    max_rollbacks: int = Field(2, ge=0)  # the next one stops the run
    rollback_learning_rate_factor: float = Field(0.5, gt=0, lt=1)


PER_STAGE = ("num_train_epochs", "max_steps", "learning_rate")
"""Settings that every stage has for itself; with `stages` there is none for the whole run."""


class GradientCheckpointingConfig(Section):
    """What transformers' `activation_checkpointing_enable` takes."""

    every_n_layers: int = Field(1, gt=0)  # 2: every second layer keeps its activations


def _trackers(value: Any) -> Any:
    """`none` and a single name, as HF also writes them."""
    names = listed(value)
    return () if list(names) == ["none"] else names


class TrainingConfig(Section):
    """How to train, in the names of HF's TrainingArguments."""

    objective: Literal["sft"] = "sft"
    num_train_epochs: float = Field(3.0, gt=0)
    max_steps: int = -1  # above 0: overrides num_train_epochs
    per_device_train_batch_size: int = Field(8, gt=0)  # samples, as HF counts; they form one ragged row
    gradient_accumulation_steps: int = Field(1, gt=0)
    auto_find_batch_size: bool = True  # a batch that does not fit into memory is halved, for the same step
    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler_type: Scheduler = "linear"
    warmup_steps: int = Field(0, ge=0)  # above 0: overrides warmup_ratio
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    layerwise_lr_decay: float = Field(1.0, gt=0, le=1)  # layer i of L: rate · decay^(L−1−i)
    loraplus_lr_ratio: float = Field(1.0, gt=0)  # LoRA+: the rate of B over that of A
    stages: tuple[StageConfig, ...] = ()  # parts of the adapter, one after the other
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool = False  # the base computes in bfloat16; adapters and optimiser stay float32
    fp16: bool = False  # the same in float16, on a GPU only
    gradient_checkpointing: bool = False  # layers compute again in the backward what they would have kept
    gradient_checkpointing_kwargs: GradientCheckpointingConfig = GradientCheckpointingConfig()
    seed: int = 42
    full_determinism: bool = False  # the same bits on a GPU too, slower; a CPU's are the same anyway
    logging_steps: int = Field(10, gt=0)
    save_steps: int = Field(500, gt=0)  # a checkpoint in checkpoints/step-N, to resume from
    save_total_limit: int = Field(3, gt=0)  # the newest that are kept; the best by eval loss besides
    eval_steps: int | None = Field(None, gt=0)  # none: once, at the end
    report_to: Annotated[tuple[Tracker, ...], BeforeValidator(_trackers)] = ()  # or none
    health: HealthConfig = HealthConfig()

    @model_validator(mode="after")
    def _one_precision(self) -> TrainingConfig:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other: keep one")
        return self

    @model_validator(mode="after")
    def _rates_and_lengths_of_stages(self) -> TrainingConfig:
        given = [key for key in PER_STAGE if self.stages and key in self.model_fields_set]
        if given:
            raise ValueError(
                f"{' and '.join(given)} would be ignored: each of the stages has its own learning_rate and "
                "num_train_epochs (or max_steps); remove it here, or remove stages"
            )
        return self

    @model_validator(mode="after")
    def _checkpointing_is_on(self) -> TrainingConfig:
        if self.gradient_checkpointing_kwargs.every_n_layers > 1 and not self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing_kwargs do nothing without gradient_checkpointing: true")
        return self
