"""Prepared module, optimiser and schedule: what one optimiser step and one evaluation do."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from seektune.adapters.inventory import Gate
from seektune.adapters.shards import is_sharded, whole
from seektune.config.training import TrainingConfig
from seektune.errors import NonFiniteError, TrainingError
from seektune.models.load import Loaded
from seektune.training.attempt import Attempt
from seektune.training.finding import Origin
from seektune.training.optim import base_rate, optimizer_of
from seektune.training.probe import bad_rows, first_non_finite
from seektune.training.ranks import Ranks
from seektune.training.room import Room
from seektune.training.schedule import Span, schedule
from seektune.training.stages import SHARDED_STAGES, Stage, Turns
from seektune.training.state import (
    State,
    random_state,
    restore_random_state,
    restore_tensors,
    surroundings,
    tensors_of,
)
from seektune.training.step import TrainStep, scored
from seektune.training.window import Window, named
from seektune.training.world import accelerator
from seektune.training.zero import ZeroOptimizer, configure
from seektune.types import Batch, StepMetrics

logger = logging.getLogger(__name__)

SCHEDULE = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
"""What a schedule of transformers carries along; the rest of it follows from the settings."""


class Trainer:
    """Everything a run carries from one optimiser step to the next."""

    def __init__(
        self, loaded: Loaded, gate: Gate, settings: TrainingConfig, steps: int, stages: Sequence[Stage] = ()
    ) -> None:
        self.loaded = loaded
        self.gate = gate
        self.settings = settings
        self.device = loaded.device
        idle = any(row.trainable and row.group in ("vision", "aligner") for row in gate.inventory.rows)
        self.accelerator = accelerator(some_idle=idle or bool(stages))
        self.ranks = Ranks(self.accelerator, self.device)
        self.turns = Turns(loaded, gate, stages)
        spans = [stage.span for stage in stages] or [Span(steps, settings.learning_rate)]
        optimizer = optimizer_of(loaded, settings, spans[0].learning_rate)
        self.schedule = schedule(  # never prepared: accelerate would step it once per rank
            optimizer,
            settings.lr_scheduler_type,
            spans,
            warmup_steps=settings.warmup_steps,
            warmup_ratio=settings.warmup_ratio,
        )
        zero = configure(self.accelerator, loaded.model.dtype)
        self.module, prepared = self.accelerator.prepare(TrainStep(loaded), optimizer)
        self.optimizer: Any = ZeroOptimizer(self.module) if zero else prepared.optimizer
        self.gate.sharded()
        if stages and (is_sharded(loaded) or zero):
            raise TrainingError(SHARDED_STAGES)
        # torch's own: accelerate's precision is fixed for the whole process by whoever asks first.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=loaded.model.dtype == torch.float16)
        self.room = Room(splits=settings.auto_find_batch_size and self.ranks.size == 1)
        self.step = 0  # optimiser steps applied
        self.seen = 0  # windows seen; more than steps when float16 gradients overflowed
        self.window: Window | None = None  # the last one
        self.cpu_before = -time.process_time()  # of this rank, in earlier processes of the same run

    def attempt(self, window: Window) -> Attempt:
        """Loss and clipped gradients of `window`; numbers that are not finite come back, nothing is raised.

        Raises TrainingError when no token carries loss.
        """
        started = time.perf_counter()
        self.turns.enter(self.step)
        weight, tokens = self.ranks.sum(window.weight, window.tokens)
        if not weight > 0:
            raise TrainingError(f"no token carries loss in {named(window.row_ids)}: the answers are empty")
        loss, batches, log_probs = self._backward(window.batches, weight)
        return Attempt(
            window=window,
            batches=batches,
            log_probs=log_probs,
            loss=loss,
            grad_norm=self._clipped_norm(),
            learning_rate=base_rate(self.optimizer),
            tokens=int(tokens),
            loss_scale=self.scaler.get_scale() if self.scaler.is_enabled() else None,
            started=started,
        )

    def apply(self, attempt: Attempt) -> StepMetrics:
        """Update the parameters."""
        self.gate.after_backward()
        self.gate.before_update()
        self.scaler.step(self.optimizer)
        self.gate.after_update(min(float(group["lr"]) for group in self.optimizer.param_groups))
        self.schedule.step()
        self.step += 1
        self._pass(attempt.window)
        return attempt.metrics(self.step)

    def discard(self, attempt: Attempt) -> StepMetrics:
        """Leave the update out: the window counts as seen, the step does not."""
        self._pass(attempt.window)
        return attempt.metrics(self.step + 1, applied=False)

    def withdraw(self, attempt: Attempt) -> StepMetrics:
        """As if the window had not been seen: the state stays that of the last step."""
        scale = self.scaler.state_dict()
        self.scaler.update()  # else it would take the next gradients for unscaled already
        self.scaler.load_state_dict(scale)
        self.optimizer.zero_grad()
        return attempt.metrics(self.step + 1, applied=False)

    def origin(self, attempt: Attempt) -> Origin | None:
        """Where the first value that is not finite appears when the attempt is repeated.

        None where it does not appear again, and of a sharded model, whose processes must not part ways.
        """
        found = None
        if not is_sharded(self.loaded) and not isinstance(self.optimizer, ZeroOptimizer):
            with self._own_random_state(), self.accelerator.no_sync(self.module):
                found = first_non_finite(
                    self.loaded.model, lambda batch: self._forward(batch)[0], attempt.batches
                )
        return next((origin for origin in self.ranks.every(found) if origin is not None), None)

    def state(self) -> State:
        """All that the steps to come depend on, in copies; every process must ask.

        Raises TrainingError before the first step.
        """
        if self.window is None or not self.step:
            raise TrainingError("there is no state before the first step")
        parameters, moments, groups = tensors_of(self.module, self.optimizer)
        values = {
            "step": self.step,
            "windows": self.seen,
            "cpu_seconds": self.cpu_before + time.process_time(),
            "data": {
                "start": self.window.start,
                "after": self.window.after,
                "digests": self.ranks.every(self.window.digest()),
            },
            "groups": groups,
            "schedule": {key: self.schedule.state_dict()[key] for key in SCHEDULE},
            "scaler": self.scaler.state_dict(),
            "room": self.room.tokens,
            "gate": self.join_gates(),
            "random": self.ranks.every(random_state(self.device)),
            "surroundings": surroundings(self.device, self.ranks.size),
        }
        return State(parameters, moments, values)

    def join_gates(self) -> dict[str, Any]:
        """What the gates of all processes have seen of the adapter in use; each knows it from here on."""
        self.gate.join(self.ranks.every(self.gate.record()))
        return self.gate.record()

    def restore(self, state: State, *, same_run: bool = False) -> None:
        """Go on from `state`; the last window it saw is left to the caller, who has the data.

        `same_run`: from an earlier step of this very trainer, whose time goes on. Else it says in one warning
        why the steps to come may differ in the last bits from those of an uninterrupted run. Raises
        TrainingError for the state of another adapter, GateError for that of another base.
        """
        values = state.values
        self.gate.resume(values["gate"])
        self.turns.forget()
        restore_tensors(self.module, self.optimizer, state)
        self.optimizer.zero_grad()
        functions = [None] * len(values["groups"])  # the settings make them
        self.schedule.load_state_dict({**values["schedule"], "lr_lambdas": functions})
        if self.scaler.is_enabled() and values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
        self.step, self.seen, self.room.tokens = values["step"], values["windows"], values["room"]
        if self.ranks.rank < len(values["random"]):
            restore_random_state(values["random"][self.ranks.rank], self.device)
        if same_run:
            return
        self.cpu_before = values["cpu_seconds"] - time.process_time()
        then, now = values["surroundings"], surroundings(self.device, self.ranks.size)
        changed = [f"{key} {then.get(key)} → {now[key]}" for key in now if then.get(key) != now[key]]
        if changed and self.ranks.rank == 0:
            share = now["processes"] / then["processes"]
            differs = "the last bits may differ" if share == 1 else f"a step sees {share:g} times the rows"
            logger.warning("resumed elsewhere (%s): %s", "; ".join(changed), differs)

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """The same weighted mean loss over all of `batches`, on all ranks, without dropout.

        Raises NonFiniteError naming the rows, on every rank.
        """
        loss_sum, weight, bad = self.score(batches)
        loss, total_weight = self.ranks.sum(loss_sum, weight)
        if not math.isfinite(loss):
            rows = [row_id for of_rank in self.ranks.every(bad) for row_id in of_rank]
            raise NonFiniteError(f"the evaluation loss is not finite in {named(rows)}")
        if not total_weight > 0:
            raise TrainingError("no token of the evaluation rows carries loss: their answers are empty")
        return loss / total_weight

    @torch.no_grad()
    def score(self, batches: Iterable[Batch]) -> tuple[float, float, list[str]]:
        """Loss and weight sums of this rank's batches, without dropout, and the rows that are not finite."""
        self.module.eval()
        sums, bad = np.zeros(2), []
        for batch in batches:
            for trial in self.room.trials([batch]):
                with trial:
                    outputs = [self._forward(piece) for piece in trial]
            for piece, (loss_sum, weight, log_probs) in zip(trial.pieces, outputs, strict=True):
                sums += loss_sum.item(), weight.item()
                if not math.isfinite(loss_sum.item()):
                    bad += bad_rows(piece, log_probs)
        return float(sums[0]), float(sums[1]), bad

    def _backward(
        self, batches: Sequence[Batch], weight: float
    ) -> tuple[float, tuple[Batch, ...], tuple[Tensor, ...]]:
        """Gradients of this rank's share of the step's mean loss.

        The mean over all ranks comes back, the batches in the pieces that fit, and the log-probs of each.
        """
        self.module.train()
        for trial in self.room.trials(batches):
            scored: list[tuple[Tensor, Tensor]] = []
            with trial, self._own_random_state():
                for piece in trial:
                    scored.append(self._forward_and_back(piece, weight, last=piece is trial.pieces[-1]))
            if trial.failure is not None:
                self.optimizer.zero_grad()  # a part of the last piece's may be in them
        (total,) = self.ranks.sum(sum(loss.item() for loss, _ in scored))
        return total / weight, trial.pieces, tuple(log_probs for _, log_probs in scored)

    def _forward_and_back(self, batch: Batch, weight: float, *, last: bool) -> tuple[Tensor, Tensor]:
        """Loss sum and log-probs, without what was kept for the backward."""
        with nullcontext() if last else self.accelerator.no_sync(self.module):
            loss_sum, _, log_probs = self._forward(batch)
            # `weight` is the sum over all ranks already: undo DDP's mean over them.
            loss = self.scaler.scale(loss_sum * (self.ranks.size / weight))
            if isinstance(self.optimizer, ZeroOptimizer):
                self.optimizer.backward(loss, last=last)
            else:
                self.accelerator.backward(loss)
        return loss_sum.detach(), log_probs.detach()

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return scored(self.module, batch.to(self.device))

    def _clipped_norm(self) -> float:
        """Norm of the gradients before they were clipped."""
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.loaded.model.parameters(), self.settings.max_grad_norm)
        return float(whole(norm).item())

    def _pass(self, window: Window) -> None:
        """On to the next window."""
        self.scaler.update()
        self.optimizer.zero_grad()
        self.seen += 1
        self.window = window

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """A random state that depends on (seed, window, rank) only; the caller's is back afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        entropy = np.random.SeedSequence((self.settings.seed, self.seen, self.ranks.rank))
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
            yield
