"""The `training` section: how to train, in the names of HF's TrainingArguments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from seektune.config.section import Section

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]


class TrainingConfig(Section):
    """How to train, in the names of HF's TrainingArguments."""

    objective: Literal["sft"] = "sft"
    num_train_epochs: float = Field(3.0, gt=0)
    max_steps: int = -1  # above 0: overrides num_train_epochs
    per_device_train_batch_size: int = Field(8, gt=0)  # samples, as HF counts; they form one ragged row
    gradient_accumulation_steps: int = Field(1, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler_type: Scheduler = "linear"
    warmup_steps: int = Field(0, ge=0)  # above 0: overrides warmup_ratio
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool = False  # the base computes in bfloat16; adapters and optimiser stay float32
    fp16: bool = False  # the same in float16, on a GPU only
    gradient_checkpointing: bool = False
    seed: int = 42
    logging_steps: int = Field(10, gt=0)
    save_steps: int = Field(500, gt=0)  # a checkpoint in checkpoints/step-N, to resume from
    save_total_limit: int = Field(3, gt=0)  # the newest that are kept; the best by eval loss besides
    eval_steps: int | None = Field(None, gt=0)  # none: once, at the end
    report_to: Literal["none"] = "none"

    @model_validator(mode="after")
    def _one_precision(self) -> TrainingConfig:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other: keep one")
        return self
