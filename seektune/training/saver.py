"""Saving while training goes on: one checkpoint at a time, the newest few and the best are kept."""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from seektune.training import checkpoint
from seektune.training.state import State

logger = logging.getLogger(__name__)


class Saver:
    """Writes a run's checkpoints into `root` in a thread of its own.

    The `keep` newest stay, and the one with the lowest evaluation loss. A disk that is full or a folder that
    may not be written costs no step: the run goes on, one warning says why, and `failure` tells it until a
    later checkpoint succeeds.
    """

    def __init__(self, root: Path, *, keep: int) -> None:
        self.failure: str | None = None
        self._root = root
        self._keep = keep
        self._losses = {checkpoint.step_of(folder): _loss_of(folder) for folder in checkpoint.folders(root)}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[None]] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()
        self.settle()

    def is_best(self, eval_loss: float | None) -> bool:
        """Whether no checkpoint has a loss as low as this."""
        if eval_loss is None:
            return False
        self.settle()
        return eval_loss < min(self._losses.values(), default=math.inf)

    def save(self, state: State, *, eval_loss: float | None = None) -> None:
        """Begin to write `state`, after the one before it is written."""
        self.settle()
        self._pending = state.step, self._writer.submit(self._write, state, eval_loss)

    def poll(self) -> None:
        """Say how the last save ended, if it has; to be called at every step."""
        if self._pending is not None and self._pending[1].done():
            self.settle()

    def settle(self) -> None:
        """Wait for the save under way. Raises what went wrong, unless it is the disk's fault."""
        if self._pending is None:
            return
        (step, writing), self._pending = self._pending, None
        error = writing.exception()
        if error is None:
            self.failure = None
        elif isinstance(error, OSError):
            self._warn(step, error)
        else:
            raise error

    def _write(self, state: State, eval_loss: float | None) -> None:
        if not state.finite:  # it would be the newest, from which runs go on
            logger.warning("step %d: the adapter is not finite, so no checkpoint is written", state.step)
            return
        checkpoint.write(state, self._root, eval_loss=eval_loss)
        self._losses[state.step] = math.inf if eval_loss is None else eval_loss
        # What lies ahead of this step was passed over on resuming: it is replaced when its step comes.
        past = [
            step for step in map(checkpoint.step_of, checkpoint.folders(self._root)) if step <= state.step
        ]
        best = min(past, key=lambda step: self._losses.get(step, math.inf))
        for step in past[: -self._keep]:
            if step != best or self._losses.get(step, math.inf) == math.inf:
                checkpoint.remove(self._root / f"step-{step}")
                self._losses.pop(step, None)

    def _warn(self, step: int, error: BaseException) -> None:
        whole = [folder for folder in checkpoint.folders(self._root) if checkpoint.step_of(folder) < step]
        last = f"the last good one is {whole[-1].name}" if whole else "there is none yet"
        reason = f"no checkpoint could be written to {self._root}: {error}"
        if self.failure is None:
            logger.warning("step %d: %s; %s, and the run goes on", step, reason, last)
        self.failure = f"{reason}; {last}"


def _loss_of(folder: Path) -> float:
    """The evaluation loss of a checkpoint; infinite where it has none or cannot be trusted."""
    if checkpoint.damage(folder) is not None:
        return math.inf
    loss = checkpoint.values_of(folder)["eval_loss"]
    return math.inf if loss is None else float(loss)
