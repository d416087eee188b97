"""How many optimiser steps a run takes, and the learning rate of each."""

from __future__ import annotations

import logging
import math

import torch
from transformers import get_scheduler

from seektune.errors import ConfigError
from seektune.types import BatchSource

logger = logging.getLogger(__name__)


def planned_steps(
    batches: BatchSource, *, max_steps: int, num_train_epochs: float, gradient_accumulation_steps: int
) -> int:
    """Optimiser steps of a run: `max_steps` when above 0, else the epochs' (a part of one is rounded up).

    The last step of an epoch accumulates what is left of it, as in HF's Trainer.
    """
    if max_steps > 0:
        return max_steps
    return math.ceil(num_train_epochs * math.ceil(len(batches) / gradient_accumulation_steps))


def schedule(
    optimizer: torch.optim.Optimizer, kind: str, *, total_steps: int, warmup_steps: int, warmup_ratio: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """Transformers' schedule `kind`, to be stepped once per applied optimiser step.

    `warmup_steps` above 0 overrides `warmup_ratio` of `total_steps`, as in HF's Trainer. Raises ConfigError
    when the schedule has no warm-up, or when warm-up, which starts at learning rate 0, takes the only step.
    """
    warmup = warmup_steps or math.ceil(total_steps * warmup_ratio)
    if warmup:
        if kind == "constant":
            raise ConfigError("lr_scheduler_type constant ignores warm-up: use constant_with_warmup")
        if total_steps == 1:
            raise ConfigError(
                "warm-up starts at learning rate 0, so the only step would move nothing: remove it"
            )
        logger.warning("the first of %d warm-up steps has learning rate 0 and moves nothing", warmup)
    scheduler: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps
    )
    return scheduler
