"""How many optimiser steps a run takes, and the learning rate of each."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from seektune.config.training import TrainingConfig
from seektune.errors import ConfigError
from seektune.types import BatchSource

logger = logging.getLogger(__name__)


class Span(NamedTuple):
    """Consecutive optimiser steps whose learning rate begins at, and is scaled by, `learning_rate`."""

    steps: int
    learning_rate: float


def planned_steps(batches: BatchSource, settings: TrainingConfig) -> int:
    """Optimiser steps of a run, of all its stages."""
    return sum(span.steps for span in planned_spans(batches, settings))


def planned_spans(batches: BatchSource, settings: TrainingConfig) -> list[Span]:
    """One span per stage, or a single one: `max_steps` when above 0, else the epochs' (a part is rounded up).

    The last step of an epoch accumulates what is left of it, as in HF's Trainer.
    """
    of_an_epoch = math.ceil(len(batches) / settings.gradient_accumulation_steps)
    return [
        Span(_steps(part.max_steps, part.num_train_epochs, of_an_epoch), part.learning_rate)
        for part in settings.stages or [settings]
    ]


def schedule(
    optimizer: torch.optim.Optimizer,
    kind: str,
    spans: Sequence[Span],
    *,
    warmup_steps: int,
    warmup_ratio: float,
) -> LambdaLR:
    """Transformers' schedule `kind` over each of the spans anew, to be stepped once per applied step.

    `optimizer` has the rate of the first span; the rate is a function of the step alone. `warmup_steps` above
    0 overrides `warmup_ratio` of a span's steps, as in HF's Trainer. Raises ConfigError when the schedule has
    no warm-up, or when warm-up, which starts at learning rate 0, takes the only step of a span.
    """
    shapes = []
    for number, span in enumerate(spans, start=1):
        warmup = warmup_steps or math.ceil(span.steps * warmup_ratio)
        _check_warmup(kind, warmup, span.steps, f"stage {number}: " if len(spans) > 1 else "")
        shapes.append(_shape(kind, warmup, span.steps))
    starts = [0, *accumulate(span.steps for span in spans)][: len(spans)]

    def factor(step: int) -> float:
        now = bisect_right(starts, step) - 1
        return spans[now].learning_rate / spans[0].learning_rate * shapes[now](step - starts[now])

    return LambdaLR(optimizer, factor)


def _steps(max_steps: int | None, epochs: float | None, of_an_epoch: int) -> int:
    if max_steps is not None and max_steps > 0:
        return max_steps
    assert epochs is not None
    return math.ceil(epochs * of_an_epoch)


def _check_warmup(kind: str, warmup: int, steps: int, where: str) -> None:
    if not warmup:
        return
    if kind == "constant":
        raise ConfigError("lr_scheduler_type constant ignores warm-up: use constant_with_warmup")
    if steps == 1:
        raise ConfigError(
            f"{where}warm-up starts at learning rate 0, so the only step would move nothing: remove it"
        )
    logger.warning("%sthe first of %d warm-up steps has learning rate 0 and moves nothing", where, warmup)


def _shape(kind: str, warmup: int, steps: int) -> Callable[[int], float]:
    """Transformers' schedule as a function of the step, relative to the rate it is given."""
    alone = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    function: Callable[[int], float] = get_scheduler(
        kind, alone, num_warmup_steps=warmup, num_training_steps=steps
    ).lr_lambdas[0]
    return function


def slow_down(schedule: torch.optim.lr_scheduler.LRScheduler, factor: float) -> None:
    """Multiply every learning rate to come."""
    schedule.base_lrs = [factor * rate for rate in schedule.base_lrs]
    schedule._last_lr = [factor * rate for rate in schedule.get_last_lr()]
    for group in schedule.optimizer.param_groups:
        group["lr"] *= factor
        group["initial_lr"] *= factor
