"""A window whose gradients are known and whose update is not applied yet."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from torch import Tensor

from seektune.training.window import Window
from seektune.types import Batch, StepMetrics


@dataclass(frozen=True, slots=True)
class Attempt:
    """Forward and backward over a window: numbers that may not be finite, and what the rows scored."""

    window: Window
    batches: tuple[Batch, ...]  # the window's, as they went through the model
    log_probs: tuple[Tensor, ...]  # (T,) of each of them
    loss: float  # token-weighted mean over all ranks
    grad_norm: float  # before clipping
    learning_rate: float
    tokens: int  # on all ranks
    loss_scale: float | None  # of its float16 gradients
    started: float  # time.perf_counter()

    @property
    def finite(self) -> bool:
        """Whether its update can be applied at all."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def metrics(self, step: int, *, applied: bool = True) -> StepMetrics:
        """What the records say of it as optimiser step `step`."""
        return StepMetrics(
            step=step,
            epoch=self.window.epoch,
            loss=self.loss,
            learning_rate=self.learning_rate,
            grad_norm=self.grad_norm,
            tokens=self.tokens,
            seconds=time.perf_counter() - self.started,
            applied=applied,
            loss_scale=self.loss_scale,
        )
