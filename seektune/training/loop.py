"""The training loop: a generator of optimiser steps, with the trained-what gate inside."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seektune.adapters.inventory import Gate
from seektune.config.section import validated
from seektune.config.stages import StageConfig
from seektune.config.training import GradientCheckpointingConfig as Checkpointing
from seektune.config.training import HealthConfig, TrainingConfig
from seektune.errors import TrainingError
from seektune.models.load import Loaded
from seektune.runlog import write_json
from seektune.training.activations import checkpointed
from seektune.training.determinism import full_determinism as deterministic
from seektune.training.finding import strongest
from seektune.training.schedule import planned_steps
from seektune.training.stages import Stage, planned_stages, taking_turns
from seektune.training.state import State
from seektune.training.trainer import Trainer
from seektune.training.watch import Watch, ended, stopped
from seektune.training.window import Window, windows
from seektune.training.world import highest, world
from seektune.types import BatchSource, StepMetrics

logger = logging.getLogger(__name__)

_DEFAULT = TrainingConfig()

Steps = Generator[tuple[Watch, StepMetrics], None, None]


def train(
    loaded: Loaded,
    batches: BatchSource,
    *,
    eval_batches: BatchSource | None = None,
    output_dir: Path | str | None = None,
    max_steps: int = _DEFAULT.max_steps,
    num_train_epochs: float = _DEFAULT.num_train_epochs,
    learning_rate: float = _DEFAULT.learning_rate,
    lr_scheduler_type: str = _DEFAULT.lr_scheduler_type,
    warmup_steps: int = _DEFAULT.warmup_steps,
    warmup_ratio: float = _DEFAULT.warmup_ratio,
    layerwise_lr_decay: float = _DEFAULT.layerwise_lr_decay,
    loraplus_lr_ratio: float = _DEFAULT.loraplus_lr_ratio,
    stages: Sequence[StageConfig | Mapping[str, Any]] = _DEFAULT.stages,
    weight_decay: float = _DEFAULT.weight_decay,
    gradient_accumulation_steps: int = _DEFAULT.gradient_accumulation_steps,
    auto_find_batch_size: bool = _DEFAULT.auto_find_batch_size,
    max_grad_norm: float = _DEFAULT.max_grad_norm,
    gradient_checkpointing: bool = _DEFAULT.gradient_checkpointing,
    gradient_checkpointing_kwargs: Checkpointing | Mapping[str, int] = _DEFAULT.gradient_checkpointing_kwargs,
    eval_steps: int | None = _DEFAULT.eval_steps,
    seed: int = _DEFAULT.seed,
    full_determinism: bool = _DEFAULT.full_determinism,
    health: HealthConfig = _DEFAULT.health,
    resume: State | None = None,
    history: Iterable[StepMetrics] = (),
) -> Run:
    """Train the attached adapter; one StepMetrics per optimiser step, applied or not.

    The loss is the token-weighted mean over the whole step, on all ranks. `eval_batches` are scored every
    `eval_steps` and after the last step. The trained-what gate runs inside; with `output_dir` its table is
    written to `inventory.json`, also when the run dies or the iterator is closed early. Dropout depends on
    (seed, step, rank) only and leaves torch's global random state alone.

    `health` says what is done about each kind of trouble: the step that shows it comes out with its
    `findings`, and with `applied` False where its update was left out (`skip`) or undone (`rollback`, to the
    last state that was asked for).

    `resume` goes on after the step of that state, bit for bit as the run it was taken from would have done
    with the same adapter attached, data and settings; the global random states are put back too. With
    `history`, the steps logged up to then, health goes on as well; without, it begins anew.

    Raises ConfigError on a wrong setting, TrainingError when there is nothing to learn from or the device
    cannot train this dtype, TrainingError or NonFiniteError saying why health stopped the run, before the
    update that would harm, and GateError; on resuming TrainingError for another adapter or other data,
    GateError for another base.
    """
    keywords = locals()
    # What is left at its default is not given: stages contradict it only where it is.
    given = {key: keywords[key] for key, value in _DEFAULT if keywords.get(key, value) != value}
    # What the base computes in is settled already; findings speak of it.
    precision = {"bf16": loaded.model.dtype == torch.bfloat16, "fp16": loaded.model.dtype == torch.float16}
    settings = validated(TrainingConfig, given | precision, "train")
    _check(loaded, batches, eval_batches)
    folder = Path(output_dir) if output_dir else None
    steps = _run(loaded, batches, eval_batches, folder, settings, resume, tuple(history))
    # A run still open when the interpreter exits ends before torch is taken apart, not while.
    weakref.finalize(steps, _close, weakref.ref(steps))
    return Run(steps)


class Run:
    """A run under way: an iterator of its steps, whose state can be taken between two of them."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._watch: Watch | None = None

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> StepMetrics:
        self._watch, metrics = next(self._steps)
        return metrics

    def state(self) -> State:
        """All that the steps to come depend on, in copies; with several processes, all of them must ask.

        Raises TrainingError before the first step.
        """
        if self._watch is None:
            raise TrainingError("a run has no state before its first step: iterate over it")
        return self._watch.state()

    def close(self) -> None:
        """End the run here; the gate's proofs run."""
        self._steps.close()


def _close(reference: weakref.ref[Steps]) -> None:
    if steps := reference():
        steps.close()


def _check(loaded: Loaded, batches: BatchSource, eval_batches: BatchSource | None) -> None:
    for name, source in {"batches": batches, "eval_batches": eval_batches}.items():
        if source is not None and not len(source):
            raise TrainingError(f"{name} is empty: no row is left to learn from or to score")
        if source is not None and -highest(-len(source))[0] != highest(len(source))[0]:
            raise TrainingError(
                f"{name} has more batches in some processes than in others, which would wait for each other "
                "forever: give every process as many, as data.batches does"
            )
    if loaded.device.type == "cpu" and loaded.model.dtype == torch.float16:
        raise TrainingError(
            "float16 does not train on a CPU, its range needs a GPU's loss scaling: "
            "use bf16 (training.bf16: true, or load_model(..., dtype='bfloat16'))"
        )
    if not loaded.family.packs:
        logger.warning(
            "%s does not pack: the sequences of a row go through the model one at a time",
            loaded.family.model_type,
        )


def _run(
    loaded: Loaded,
    batches: BatchSource,
    eval_batches: BatchSource | None,
    output_dir: Path | None,
    settings: TrainingConfig,
    resume: State | None,
    history: Sequence[StepMetrics],
) -> Steps:
    size = settings.gradient_accumulation_steps
    total, stages = planned_steps(batches, settings), planned_stages(loaded, batches, settings)
    with (
        _gate(loaded, stages, output_dir) as gate,
        _mode(loaded.model, settings),
        taking_turns(loaded, stages),
    ):
        trainer = Trainer(loaded, gate, settings, total, stages)
        watch = Watch(trainer)
        stream = windows(batches, size)
        if resume is not None:
            stream = _taken_up(batches, size, resume)
            watch.resume(resume, history)
            if ended(history):
                return
        while trainer.step < total:
            attempt = trainer.attempt(next(stream))
            found = watch.judged(attempt)
            action = strongest(found)
            if action in ("stop", "rollback"):
                metrics = trainer.withdraw(attempt)
            elif action == "skip" or not attempt.finite:  # float16 tries again with a lower loss scale
                metrics = trainer.discard(attempt)
            else:
                metrics = trainer.apply(attempt)
                watch.applied(metrics)
                due = trainer.step == total or trainer.step % (settings.eval_steps or total) == 0
                if trainer.step == total:
                    trainer.join_gates()
                if eval_batches and due:
                    metrics, more = watch.evaluated(metrics, eval_batches)
                    found, action = found + more, strongest(more)
            if action == "rollback":
                metrics = replace(metrics, applied=False)
                stream = _taken_up(batches, size, watch.roll_back())
            yield watch, replace(metrics, findings=tuple(finding.to_json() for finding in found))
            if action == "stop":
                if (error := stopped(found)) is not None:
                    raise error
                return


def _taken_up(batches: BatchSource, size: int, state: State) -> Iterator[Window]:
    """The windows after the last one that `state` saw, which is read again: it must be the same.

    Where the number of processes changed, only the place in the epoch can be kept.
    """
    data, (rank, processes) = state.values["data"], world()
    if len(data["digests"]) != processes:
        epoch, seen = data["after"]
        return windows(batches, size, (epoch, seen * len(data["digests"]) // processes))
    epoch, seen = data["start"]
    stream = windows(batches, size, (epoch, seen))
    if next(stream).digest() != data["digests"][rank]:
        raise TrainingError(
            f"the data is not what the run was trained on: the rows of step {state.step} have changed, in "
            "content, order or grouping; bring them back, or start the run again"
        )
    return stream


@contextmanager
def _gate(loaded: Loaded, stages: Sequence[Stage], output_dir: Path | None) -> Iterator[Gate]:
    """The trained-what gate: its table before step 0, its proofs at the end, however the end comes."""
    gate = Gate(loaded, {stage.name: stage.sites for stage in stages})
    try:
        yield gate
    finally:
        try:
            gate.finish()
        finally:
            if output_dir and world()[0] == 0:
                write_json(output_dir / "inventory.json", gate.inventory.to_json())


@contextmanager
def _mode(model: Any, settings: TrainingConfig) -> Iterator[None]:
    """Checkpointing and determinism as asked; after the run they and the model's mode are as before."""
    was_training, every = model.training, settings.gradient_checkpointing_kwargs.every_n_layers
    with (
        deterministic(settings.full_determinism),
        checkpointed(model, settings.gradient_checkpointing, every_n_layers=every),
    ):
        try:
            yield
        finally:
            model.train(was_training)
