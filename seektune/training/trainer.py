"""Prepared module, optimiser and schedule: what one optimiser step and one evaluation do."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from seektune.adapters.inventory import Gate
from seektune.adapters.shards import whole
from seektune.config.training import TrainingConfig
from seektune.errors import NonFiniteError, TrainingError
from seektune.models.load import Loaded
from seektune.training.optim import adamw
from seektune.training.schedule import schedule
from seektune.training.state import (
    State,
    random_state,
    restore_random_state,
    restore_tensors,
    surroundings,
    tensors_of,
)
from seektune.training.step import TrainStep
from seektune.training.window import Window
from seektune.training.world import world
from seektune.types import Batch, BatchSource, StepMetrics

logger = logging.getLogger(__name__)

SCHEDULE = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
"""What a schedule of transformers carries along; the rest of it follows from the settings."""

NAMED_ROWS = 8
"""Rows an error names before it only counts."""


class Trainer:
    """Everything a run carries from one optimiser step to the next."""

    def __init__(self, loaded: Loaded, gate: Gate, settings: TrainingConfig, total_steps: int) -> None:
        self.gate = gate
        self.settings = settings
        self.device = loaded.device
        self.rank, self.world_size = world()
        # The base's dtype is the precision (no autocast), and it already lies where it shall train.
        self.accelerator = Accelerator(mixed_precision="no", device_placement=False)
        self.accelerator.sync_gradients = (
            True  # state shared in the process; an earlier run may have left it off
        )
        optimizer = adamw(
            (parameter for parameter in loaded.model.parameters() if parameter.requires_grad),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.schedule = schedule(  # never prepared: accelerate would step it once per rank
            optimizer,
            settings.lr_scheduler_type,
            total_steps=total_steps,
            warmup_steps=settings.warmup_steps,
            warmup_ratio=settings.warmup_ratio,
        )
        self.module, self.optimizer = self.accelerator.prepare(TrainStep(loaded), optimizer)
        self.gate.sharded()
        # torch's own: accelerate's precision is fixed for the whole process by whoever asks first.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=loaded.model.dtype == torch.float16)
        self.step = 0  # optimiser steps applied
        self.seen = 0  # windows seen; more than steps when float16 gradients overflowed
        self.window: Window | None = None  # the last one
        self.cpu_before = -time.process_time()  # of this rank, in earlier processes of the same run

    def update(self, window: Window) -> StepMetrics | None:
        """One optimiser step on `window`; None where float16 gradients overflowed and it was skipped.

        Raises NonFiniteError before anything is updated when loss or gradient is not finite.
        """
        started = time.perf_counter()
        weight, tokens = self._over_ranks(window.weight, window.tokens)
        if not weight > 0:
            raise TrainingError(f"no token carries loss in {_named(window.row_ids)}: the answers are empty")
        loss = self._backward(window, weight)
        grad_norm = self._clipped_norm(window)
        learning_rate = float(self.schedule.get_last_lr()[0])
        if math.isfinite(grad_norm):
            self.gate.after_backward()
            self.gate.before_update()
            self.scaler.step(self.optimizer)
            self.gate.after_update(learning_rate)
            self.schedule.step()
            self.step += 1
        self.scaler.update()
        self.optimizer.zero_grad()
        self.seen += 1
        self.window = window
        if not math.isfinite(grad_norm):
            return None
        seconds = time.perf_counter() - started
        return StepMetrics(self.step, window.epoch, loss, learning_rate, grad_norm, int(tokens), seconds)

    def state(self) -> State:
        """All that the steps to come depend on, in copies; every process must ask.

        Raises TrainingError before the first step.
        """
        if self.window is None or not self.step:
            raise TrainingError("there is no state before the first step")
        parameters, moments, groups = tensors_of(self.module, self.optimizer.optimizer)
        values = {
            "step": self.step,
            "windows": self.seen,
            "cpu_seconds": self.cpu_before + time.process_time(),
            "data": {
                "start": self.window.start,
                "after": self.window.after,
                "digests": self._of_every_rank(self.window.digest()),
            },
            "groups": groups,
            "schedule": {key: self.schedule.state_dict()[key] for key in SCHEDULE},
            "scaler": self.scaler.state_dict(),
            "gate": self.gate.record(),
            "random": self._of_every_rank(random_state(self.device)),
            "surroundings": surroundings(self.device, self.world_size),
        }
        return State(parameters, moments, values)

    def restore(self, state: State) -> None:
        """Go on from `state`; the last window it saw is left to the caller, who has the data.

        Says in one warning why the steps to come may differ in the last bits from those of an uninterrupted
        run. Raises TrainingError for the state of another adapter, GateError for that of another base.
        """
        values = state.values
        self.gate.resume(values["gate"])
        restore_tensors(self.module, self.optimizer.optimizer, state)
        self.optimizer.zero_grad()
        functions = [None] * len(values["groups"])  # the settings make them
        self.schedule.load_state_dict({**values["schedule"], "lr_lambdas": functions})
        if self.scaler.is_enabled() and values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
        self.step, self.seen = values["step"], values["windows"]
        self.cpu_before = values["cpu_seconds"] - time.process_time()
        if self.rank < len(values["random"]):
            restore_random_state(values["random"][self.rank], self.device)
        then, now = values["surroundings"], surroundings(self.device, self.world_size)
        changed = [f"{key} {then.get(key)} → {now[key]}" for key in now if then.get(key) != now[key]]
        if changed and self.rank == 0:
            logger.warning("resumed elsewhere (%s): the last bits may differ", "; ".join(changed))

    @torch.no_grad()
    def evaluate(self, batches: BatchSource) -> float:
        """The same weighted mean loss over all of `batches`, on all ranks, without dropout."""
        self.module.eval()
        sums = np.zeros(2)
        for batch in batches.epoch(0):
            loss_sum, weight, log_probs = self._forward(batch)
            if not math.isfinite(loss_sum.item()):
                raise NonFiniteError(
                    f"the evaluation loss is not finite in {_named(_bad_rows(batch, log_probs))}"
                )
            sums += loss_sum.item(), weight.item()
        loss, total_weight = self._over_ranks(*sums.tolist())
        if not total_weight > 0:
            raise TrainingError("no token of the evaluation rows carries loss: their answers are empty")
        return loss / total_weight

    def _backward(self, window: Window, weight: float) -> float:
        """Gradients of the window's share of the step's mean loss; the mean over all ranks comes back."""
        self.module.train()
        outputs = []
        with self._own_random_state():
            for index, batch in enumerate(window.batches, start=1):
                syncs = index == len(window.batches)
                with nullcontext() if syncs else self.accelerator.no_sync(self.module):
                    loss_sum, _, log_probs = self._forward(batch)
                    # `weight` is the sum over all ranks already: undo DDP's mean over them.
                    self.accelerator.backward(self.scaler.scale(loss_sum * (self.world_size / weight)))
                outputs.append((loss_sum.detach(), log_probs.detach()))
        local = math.fsum(loss_sum.item() for loss_sum, _ in outputs)
        (total,) = self._over_ranks(local)
        if not math.isfinite(total):
            rows = [
                row_id
                for batch, (_, log_probs) in zip(window.batches, outputs, strict=True)
                for row_id in _bad_rows(batch, log_probs)
            ]
            raise self._non_finite("loss", rows)
        return total / weight

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        batch = batch.to(self.device)
        outputs: tuple[Tensor, Tensor, Tensor] = self.module(
            batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.targets, batch.weights
        )
        return outputs

    def _clipped_norm(self, window: Window) -> float:
        """Norm of the gradients before they were clipped; not finite only where loss scaling will retry."""
        self.scaler.unscale_(self.optimizer)
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.settings.max_grad_norm)
        norm = whole(norm).item()
        retries = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not math.isfinite(norm) and not retries:
            raise self._non_finite("gradient", window.row_ids)
        return float(norm)

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """A random state that depends on (seed, window, rank) only; the caller's is back afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        entropy = np.random.SeedSequence((self.settings.seed, self.seen, self.rank))
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
            yield

    def _over_ranks(self, *values: float) -> list[float]:
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        totals: list[float] = self.accelerator.reduce(sums, "sum").tolist()
        return totals

    def _of_every_rank(self, value: Any) -> list[Any]:
        values: list[Any] = gather_object([value])
        return values

    def _non_finite(self, what: str, rows: Sequence[str]) -> NonFiniteError:
        where = _named(rows) if rows else "rows of another rank"
        return NonFiniteError(
            f"step {self.step + 1}: the {what} is not finite in {where}; nothing was updated. "
            f"Usual causes: a learning rate too high (it is {self.schedule.get_last_lr()[0]:g}; try 1e-5), "
            f"gradients clipped too late (max_grad_norm is {self.settings.max_grad_norm:g}; try 0.3), "
            "or very long rows (try a smaller data.max_length)"
        )


def _bad_rows(batch: Batch, log_probs: Tensor) -> list[str]:
    """The rows of `batch` with a log-prob that is not finite."""
    parts = zip(batch.row_ids, batch.sequences(), strict=True)
    return [row_id for row_id, part in parts if not log_probs[part].isfinite().all()]


def _named(row_ids: Sequence[str]) -> str:
    more = f" and {len(row_ids) - NAMED_ROWS} more rows" if len(row_ids) > NAMED_ROWS else ""
    return ", ".join(row_ids[:NAMED_ROWS]) + more
