"""Short runs from the base, each with one setting changed: what a rate or a choice of groups would bring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from seektune.adapters.attach import attach, detach
from seektune.config.adapter import AdapterSpec
from seektune.config.training import TrainingConfig
from seektune.errors import GateError, NonFiniteError
from seektune.models.forward import evaluating
from seektune.models.load import Loaded
from seektune.training.loop import train
from seektune.training.step import TrainStep, scored
from seektune.types import BatchSource, StepMetrics

NAME = "trial"
"""Of the adapter that a trial attaches, and takes off again."""

LOST = 3.0
"""Times the first loss, and as many nats above it, from which a trial is given up: it has diverged."""

MOST_STEPS, LEAST_STEPS = 50, 5
"""Of a trial."""

BETTER, NOTABLE = 0.15, 0.03
"""Shares of the configured settings' loss and of the base's by which a trial must be lower."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was changed, and the loss it led to: one per seed, infinite where it diverged."""

    name: str
    losses: tuple[float, ...]
    steps: int
    learning_rate: float
    failure: str = ""  # why it could not be run at all

    @property
    def loss(self) -> float:
        """Mean over the seeds."""
        return mean(self.losses) if self.losses else math.inf

    @property
    def spread(self) -> float:
        """Half the range over the seeds; infinite where one diverged."""
        if not self.losses or not all(map(math.isfinite, self.losses)):
            return math.inf
        return (max(self.losses) - min(self.losses)) / 2

    def to_json(self) -> dict[str, Any]:
        """Plain values; a loss that is not finite is None, for a diverged run."""
        return {
            "name": self.name,
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "losses": [loss if math.isfinite(loss) else None for loss in self.losses],
            "failure": self.failure,
        }


@dataclass(frozen=True, slots=True)
class Reference:
    """What a trial is held against: losses of the base and of the whole run on the same rows.

    A trial convicts only where, in its few steps, it ends lower than the whole run: a healthy run had the
    time to go further, whatever its settings.
    """

    base: float
    run: float  # infinite where the run broke off
    steps: int  # of the run

    def before(self, configured: Trial) -> float:
        """The best that the configured settings reached, in the whole run or in a trial of their own.

        A run that learnt its rows by heart is worse than its own beginning: that is no fault of a setting
        that the trial changes.
        """
        return min(self.run, configured.loss, self.base)

    def beats(self, loss: float, before: float) -> bool:
        """Whether `loss` is lower by a share of what was there, and of what the base had."""
        gain = before - loss
        return gain >= BETTER * before and gain >= NOTABLE * self.base

    def gain(self, loss: float, before: float) -> float:
        """The improvement as a share of the base's loss, in 0–1."""
        return max(0.0, before - loss) / self.base


@dataclass(frozen=True)
class Bench:
    """What all trials of a run share: the base without an adapter, the rows, the run's own settings."""

    loaded: Loaded
    batches: BatchSource
    scored: BatchSource  # rows that the trials do not learn from, where there are some
    settings: TrainingConfig
    steps: int

    def run(
        self, name: str, spec: AdapterSpec, *, learning_rate: float | None = None, seeds: Sequence[int] = (0,)
    ) -> Trial:
        """The adapter of `spec` trained for `steps` on the run's first rows, once per seed.

        With several seeds only the adapter's start differs: the rows are the same.
        """
        rate = self.settings.learning_rate if learning_rate is None else learning_rate
        trial = Trial(name, (), self.steps, rate)
        for seed in seeds:
            try:
                with attached(self.loaded, spec, seed):
                    trial = replace(trial, losses=(*trial.losses, self._loss(rate)))
            except GateError as error:
                return replace(trial, losses=(), failure=str(error).splitlines()[-1].strip())
        return trial

    def base_loss(self) -> float:
        """What the base alone has on the scored rows."""
        return mean_loss(self.loaded, self.scored)

    def _loss(self, rate: float) -> float:
        """The loss on the scored rows after a trial."""
        settings = self.settings
        run = train(
            self.loaded,
            self.batches,
            max_steps=self.steps,
            learning_rate=rate,
            lr_scheduler_type=settings.lr_scheduler_type,
            warmup_ratio=warmup_share(settings, self.steps),
            layerwise_lr_decay=settings.layerwise_lr_decay,
            loraplus_lr_ratio=settings.loraplus_lr_ratio,
            weight_decay=settings.weight_decay,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            max_grad_norm=settings.max_grad_norm,
            gradient_checkpointing=settings.gradient_checkpointing,
            seed=settings.seed,
        )
        first = math.inf
        try:
            with closing(run):
                for metrics in run:
                    first = min(first, metrics.loss) if math.isinf(first) else first
                    if metrics.loss > LOST * first and metrics.loss > first + LOST:
                        return math.inf
        except NonFiniteError:
            return math.inf
        return mean_loss(self.loaded, self.scored)


def warmup_share(settings: TrainingConfig, steps: int) -> float:
    """The run's warm-up as a share of a trial: none where the trial is too short to have one."""
    warms = settings.warmup_ratio or settings.warmup_steps
    return min(settings.warmup_ratio or 0.1, 0.3) if warms and steps > 3 else 0.0


def trial_steps(steps: Sequence[StepMetrics], trials: int, budget: float) -> int:
    """Steps of each of so many trials: a third of the run at most, and what `budget` allows, in minutes."""
    if not steps:
        return 0
    seconds = max(median(step.seconds for step in steps), 1e-4)
    return min(MOST_STEPS, max(LEAST_STEPS, len(steps) // 3), int(60 * budget / (trials * seconds)))


def last_loss(steps: Sequence[StepMetrics]) -> float:
    """Where an unfinished run stands: its last evaluation, else the middle of its last losses.

    Infinite where health stopped it: its last losses say nothing about where it would have gone.
    """
    if any(step.calls_for("stop") for step in steps[-1:]):
        return math.inf
    evaluated = [step.eval_loss for step in steps if step.eval_loss is not None]
    loss = evaluated[-1] if evaluated else median([step.loss for step in steps[-10:]] or [math.inf])
    return loss if math.isfinite(loss) else math.inf


@contextmanager
def attached(loaded: Loaded, spec: AdapterSpec, seed: int) -> Iterator[None]:
    """A fresh adapter within the block, the base without it afterwards."""
    attach(loaded, spec, name=NAME, seed=seed)
    try:
        yield
    finally:
        detach(loaded, NAME)


def mean_loss(loaded: Loaded, batches: BatchSource) -> float:
    """The weighted mean loss of a model as it is over one epoch of `batches`; infinite where not finite."""
    step, total, weight = TrainStep(loaded), 0.0, 0.0
    with evaluating(loaded.model):
        for batch in batches.epoch(0):
            loss_sum, weight_sum, _ = scored(step, batch.to(loaded.device))
            total, weight = total + float(loss_sum), weight + float(weight_sum)
    loss = total / weight if weight else math.inf
    return loss if math.isfinite(loss) else math.inf
